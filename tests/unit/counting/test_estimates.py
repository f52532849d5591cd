"""Estimates against counts that are known: Claude's by a reconstruction of its two vocabularies (ctok 1.3, which agrees with the usage that
Anthropic reports for plain messages), Gemini's by the Gemma vocabulary, Llama's by the Llama 3 vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from sidecar.counting import Size, count_embed, count_generate, count_text
from sidecar.counting.estimates import family
from sidecar.request import Image, Message, Part, ResponseFormat, Text, Tool, ToolCall, ToolResult


class Known(NamedTuple):
    text: str
    claude_3: int  # to 4.6
    claude_4_8: int  # and later
    gemini: int
    llama: int


KNOWN = {
    "en": Known(
        "The finance team asked for a report that explains why invoices from the northern region arrive late. Please re"
        "ad the attached notes, group the causes by supplier, and propose two changes that would shorten the delay with"
        "out adding staff.",
        claude_3=45,
        claude_4_8=64,
        gemini=43,
        llama=43,
    ),
    "de": Known(
        "Die Finanzabteilung möchte wissen, warum Rechnungen aus der nördlichen Region verspätet eintreffen. Bitte lies"
        " die beigefügten Notizen, ordne die Ursachen nach Lieferanten und schlage zwei Änderungen vor, die die Verzöge"
        "rung ohne zusätzliches Personal verkürzen.",
        claude_3=89,
        claude_4_8=120,
        gemini=58,
        llama=75,
    ),
    "ru": Known(
        "Финансовый отдел хочет узнать, почему счета из северного региона приходят с опозданием. Прочитай приложенные з"
        "аметки, сгруппируй причины по поставщикам и предложи два изменения, которые сократят задержку без найма новых "
        "людей.",
        claude_3=85,
        claude_4_8=85,
        gemini=57,
        llama=63,
    ),
    "ar": Known(
        "يريد الفريق المالي أن يعرف لماذا تصل فواتير المنطقة الشمالية متأخرة. يرجى قراءة الملاحظات المرفقة وتجميع الأسب"
        "اب حسب المورد واقتراح تغييرين يقللان التأخير دون توظيف أشخاص جدد.",
        claude_3=111,
        claude_4_8=111,
        gemini=60,
        llama=67,
    ),
    "hi": Known(
        "वित्त टीम जानना चाहती है कि उत्तरी क्षेत्र के बिल देर से क्यों आते हैं। कृपया संलग्न नोट्स पढ़ें, कारणों को आप"
        "ूर्तिकर्ता के अनुसार समूहित करें और दो ऐसे बदलाव सुझाएँ जो बिना नए कर्मचारियों के देरी को कम करें।",
        claude_3=142,
        claude_4_8=142,
        gemini=72,
        llama=106,
    ),
    "ko": Known(
        "재무팀은 북부 지역의 송장이 왜 늦게 도착하는지 알고 싶어 합니다. 첨부된 메모를 읽고 원인을 "
        "공급업체별로 묶은 다음, 인원을 늘리지 않고 지연을 줄일 수 있는 변경 사항 두 가지를 제안해 주세요.",
        claude_3=120,
        claude_4_8=119,
        gemini=78,
        llama=65,
    ),
    "ja": Known(
        "財務チームは、北部地域からの請求書がなぜ遅れて届くのかを知りたがっています。添付のメモを"
        "読み、原因を仕入先ごとにまとめ、人員を増やさずに遅れを短くする変更を二つ提案してください。",
        claude_3=88,
        claude_4_8=87,
        gemini=52,
        llama=72,
    ),
    "zh": Known(
        "财务团队想知道为什么北部地区的发票总是迟到。请阅读附件中的备注，按"
        "供应商对原因进行分组，并提出两项在不增加人手的情况下缩短延误的改动。",
        claude_3=71,
        claude_4_8=70,
        gemini=43,
        llama=53,
    ),
    "th": Known(
        "ทีมการเงินต้องการทราบว่าทำไมใบแจ้งหนี้จากภาคเหนือจึงมาถึงล่าช้า โปรดอ่านบันทึกที่แนบมา จัดกลุ่มสาเหตุตามผู้จัด"
        "จำหน่าย และเสนอการเปลี่ยนแปลงสองอย่างที่ลดความล่าช้าโดยไม่ต้องเพิ่มพนักงาน",
        claude_3=164,
        claude_4_8=164,
        gemini=69,
        llama=85,
    ),
    "code_py": Known(
        'def overdue(invoices, today):\n    """Return invoices past their due date, oldest first."""\n    late = [i for i'
        " in invoices if i.due_on < today and not i.paid]\n    late.sort(key=lambda i: i.due_on)\n    return [(i.number, "
        "(today - i.due_on).days) for i in late]\n",
        claude_3=89,
        claude_4_8=102,
        gemini=86,
        llama=74,
    ),
    "code_sql": Known(
        "SELECT s.name, COUNT(*) AS late_count, AVG(i.paid_on - i.due_on) AS avg_days\nFROM invoices AS i\nJOIN suppliers"
        " AS s ON s.id = i.supplier_id\nWHERE i.region = 'north' AND i.paid_on > i.due_on\nGROUP BY s.name\nHAVING COUNT(*"
        ") > 3\nORDER BY avg_days DESC\nLIMIT 20;",
        claude_3=103,
        claude_4_8=154,
        gemini=98,
        llama=84,
    ),
    "json": Known(
        '{"invoice_id":"INV-2024-00917","supplier":{"id":4411,"name":"Nordwind GmbH"},"lines":[{"sku":"A-17","qty":12,"'
        'unit_price":"14.90"},{"sku":"B-03","qty":1,"unit_price":"219.00"}],"due_on":"2024-11-30","paid":false,"notes":'
        "null}",
        claude_3=96,
        claude_4_8=128,
        gemini=106,
        llama=81,
    ),
    "log": Known(
        "2024-11-21T10:58:01.339Z ERROR [worker-7] c.a.b.InvoiceService: timeout after 30000 ms calling http://10.2.0.1"
        "7:8080/api/v1/invoices?id=0f8fad5b-d9cb-469f-a165-70867728950e attempt=3\n\tat com.acme.billing.Client.send(Clie"
        "nt.java:118)\n",
        claude_3=110,
        claude_4_8=127,
        gemini=133,
        llama=91,
    ),
    "md": Known(
        "# Findings\n\n| cause | count |\n|---|---:|\n| missing PO | 14 |\n| wrong address | 3 |\n\n- **Nordwind**: sends pape"
        "r invoices\n- `Seeblick`: uses the old portal\n\n1. Ask for PDF by mail.\n2. Close the old portal.\n",
        claude_3=74,
        claude_4_8=97,
        gemini=68,
        llama=65,
    ),
    "snake": Known(
        "get_invoice_by_supplier_id fetchAllOverdueInvoicesForRegion MAX_RETRY_COUNT InvoiceRepositoryImpl kebab-case-n"
        "ame-here __init__ snake_case_variable",
        claude_3=48,
        claude_4_8=77,
        gemini=39,
        llama=31,
    ),
}


@pytest.mark.parametrize("known", KNOWN.values(), ids=KNOWN.keys())
class TestText:
    """At most 10 % below: what the package's docstring promises for texts like these."""

    def test_claude_3(self, known: Known) -> None:
        assert count_text("claude", known.text, "claude-sonnet-4-20250514") >= 0.9 * known.claude_3

    def test_claude_4_8(self, known: Known) -> None:
        assert count_text("claude", known.text, "claude-sonnet-5") >= 0.9 * known.claude_4_8

    def test_gemini(self, known: Known) -> None:
        assert count_text("gemini", known.text) >= 0.9 * known.gemini

    def test_llama(self, known: Known) -> None:
        assert count_text("llama", known.text) >= known.llama

    def test_estimate_is_the_most_cautious(self, known: Known) -> None:
        assert count_text("estimate", known.text) >= 0.9 * max(known.claude_3, known.claude_4_8, known.gemini, known.llama)


def test_text_in_english_and_code_is_not_far_above() -> None:
    """Caution has its price: a reservation too large refuses calls that would fit."""
    for name in ("en", "code_py", "json", "log", "md"):
        known = KNOWN[name]
        assert count_text("claude", known.text, "claude-3-5-haiku-latest") <= 1.3 * known.claude_3
        assert count_text("claude", known.text, "claude-opus-4-8") <= 1.3 * known.claude_4_8
        assert count_text("gemini", known.text) <= 1.3 * known.gemini
        assert count_text("llama", known.text) == known.llama


def test_runs_of_one_character() -> None:
    """1,000 spaces are 9 tokens to OpenAI, 63 to Claude and 62 to Gemini."""
    assert count_text("claude", " " * 1000) >= 63
    assert count_text("gemini", " " * 1000) >= 62


@pytest.mark.parametrize("tokenizer", ["claude", "gemini", "llama", "estimate", "a name nobody knows"])
def test_nothing_is_no_tokens(tokenizer: str) -> None:
    assert count_text(tokenizer, "") == 0
    assert count_embed(tokenizer, [""]) == Size(0, True, tokenizer)


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("claude-3-5-haiku-20241022", "claude-opus-4-7"),
        ("claude-sonnet-4-20250514", "claude-sonnet-5"),
        ("claude-haiku-4-5-20251001", "claude-opus-5-5"),
        ("claude-2.1", "claude-fable-5"),
        ("anthropic/claude-sonnet-4.6", "anthropic/claude-opus-4.8"),
        ("claude-sonnet-4-6", "claude-next"),
    ],
)
def test_claude_version_is_read_from_the_name(older: str, newer: str) -> None:
    """The newer vocabulary, and whatever is not known, is the dearer one."""
    assert family("claude", older).factor < family("claude", newer).factor


TOOL = Tool("lookup", "Look a thing up", {"type": "object", "properties": {"what": {"type": "string"}}})
MORE: list[Part] = [Text("hello"), Image(url="https://example.org/a.png"), ToolCall("1", "lookup", "{}"), ToolResult("1", "lookup", "none")]


@pytest.mark.parametrize("tokenizer", ["o200k_base", "cl100k_base", "claude", "gemini", "llama", "estimate"])
@pytest.mark.parametrize("part", MORE, ids=["text", "image", "call", "result"])
def test_every_part_adds(tokenizer: str, part: Part) -> None:
    one = count_generate(tokenizer, "", [Message("user", (Text("hi"),))], (), None)
    two = count_generate(tokenizer, "", [Message("user", (Text("hi"), part))], (), None)
    assert two.tokens > one.tokens


@pytest.mark.parametrize("tokenizer", ["claude", "gemini", "llama", "estimate"])
def test_tools_and_messages_add(tokenizer: str) -> None:
    hi = Message("user", (Text("hi"),))
    one = count_generate(tokenizer, "", [hi], (), None)
    assert one.estimated
    assert one.tokenizer == tokenizer
    assert count_generate(tokenizer, "", [hi, hi], (), None).tokens > one.tokens
    with_one = count_generate(tokenizer, "", [hi], [TOOL], None).tokens
    assert one.tokens < with_one < count_generate(tokenizer, "", [hi], [TOOL, TOOL], None).tokens


def test_schemas_add_where_the_provider_counts_them() -> None:
    hi = [Message("user", (Text("hi"),))]
    wanted = ResponseFormat("json_schema", "answer", TOOL.parameters)

    def added(tokenizer: str) -> int:
        return count_generate(tokenizer, "", hi, (), wanted).tokens - count_generate(tokenizer, "", hi, (), None).tokens

    assert added("claude") > 100
    assert added("gemini") == 0
