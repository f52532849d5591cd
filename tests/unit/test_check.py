"""`sidecar check`, `ask`, `version`, as a person at a terminal meets them."""

import importlib
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from sidecar.cli import main
from sidecar.commands.check import check
from sidecar.v1.llm_pb2 import (
    Cost,
    CountTokensRequest,
    CountTokensResponse,
    EmbedRequest,
    EmbedResponse,
    GenerateRequest,
    GenerateResponse,
    StreamEvent,
    StreamStart,
    Usage,
)
from sidecar.v1.llm_pb2_grpc import LLMServiceServicer, add_LLMServiceServicer_to_server

TODAY = date(2026, 11, 21)
ALL = {"OPENAI_API_KEY": "hush-o", "ANTHROPIC_API_KEY": "hush-a", "GOOGLE_API_KEY": "hush-g"}

Output = pytest.CaptureFixture[str]


def run(capsys: Output, environ: dict[str, str], today: date = TODAY) -> tuple[int, list[str]]:
    status = check(None, environ, today, live=False, as_json=False)
    return status, capsys.readouterr().out.splitlines()


def test_all_keys_are_fine_and_ends_are_told(capsys: Output) -> None:
    status, lines = run(capsys, ALL | {"SIDECAR_PROFILE__NAME": "production"})
    assert status == 0
    assert lines[-1] == "ok: profile production, providers configured: anthropic, google, openai"
    assert any(line.startswith("warning settings: claude-sonnet-4 retired on 2026-06-15; claude-sonnet-4-6 answers") for line in lines)
    gemini = "warning model gemini-2.5-flash: retires on 2026-12-01, in 10 days; gemini-3.5-flash-lite answers from then on, try it before"
    assert any(line.startswith(gemini) for line in lines)
    assert "hush" not in "".join(lines)


def test_soon_is_sixty_days(capsys: Output) -> None:
    assert not any("model gpt-4o:" in line for line in run(capsys, ALL, date(2026, 11, 14))[1])
    assert any("model gpt-4o: retires on 2027-01-14, in 60 days" in line for line in run(capsys, ALL, date(2026, 11, 15))[1])
    assert any("model gpt-4o: retires on 2027-01-14, in 1 days" in line for line in run(capsys, ALL, date(2027, 1, 13))[1])
    assert not any("model gpt-4o:" in line for line in run(capsys, ALL, date(2027, 1, 14))[1])


def test_a_newcomer_is_told_how_to_begin(capsys: Output) -> None:
    status, lines = run(capsys, {})
    assert status == 0
    assert "warning providers: none is configured: the built-in echo answers every call" in lines
    assert "note    provider openai: no key: its models are skipped; set OPENAI_API_KEY to use it" in lines
    assert lines[-1] == "ok: profile local, providers configured: none, the built-in echo answers"


def test_nodes_that_nobody_answers_are_errors(capsys: Output) -> None:
    status, lines = run(capsys, {"ANTHROPIC_API_KEY": "a"})
    assert status == 1
    errors = [line.split()[2].rstrip(":") for line in lines if line.startswith("error")]
    assert errors == ["core.document_structuring", "oracle.embedding", "vision.nl_to_pivot", "synapse.ner", "synapse.relation"]
    assert any(line.startswith("warning node oracle.hyde: claude-sonnet-4-6 answers instead of its primary") for line in lines)


def test_production_without_a_fallback_is_an_error(capsys: Output) -> None:
    status, lines = run(capsys, {"OPENAI_API_KEY": "o", "SIDECAR_PROFILE__NAME": "production"})
    assert status == 1
    why = "has a primary (gpt-4o) and no fallback (claude-sonnet-4-6: provider anthropic has no key)"
    assert f"error   production: node core.react_agent {why}" in lines
    assert lines[-1].startswith("15 errors: ")


def test_a_strict_node_needs_a_model_that_guarantees_schemas(capsys: Output) -> None:
    status, lines = run(capsys, ALL | {"MODEL_SYNAPSE_NER": "gemini-2.5-flash"})
    assert status == 1
    assert "error   node synapse.ner: needs strict schemas, and gemini-2.5-flash does not guarantee them" in lines


def test_a_missing_sdk_is_named_with_the_way_to_install_it(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    for name in ("openai", "google", "google.genai"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    importlib.invalidate_caches()
    status, lines = run(capsys, ALL)
    assert status == 1
    assert "error   provider openai: needs the package openai: pip install 'llm-sidecar[openai]'" in lines
    assert "error   provider google: needs the package google.genai: pip install 'llm-sidecar[google]'" in lines


def test_plans_that_leave_their_callers_alone_are_told(capsys: Output) -> None:
    alone = "plan free: allows gpt-4o-mini alone, so its callers have no fallback; gemini-2.5-flash: provider google cannot be called"
    assert f"note    {alone}" in run(capsys, {"OPENAI_API_KEY": "o"})[1]
    assert not any(" plan " in line.partition(":")[0] for line in run(capsys, ALL)[1])
    status, lines = run(capsys, {"OPENAI_API_KEY": "o", "SIDECAR_PLANS__GOLD__MODELS": "gemini-2.5-flash,claude-sonnet-4"})
    assert status == 0
    gold = "warning plan gold: allows nothing that can be called, so its callers get no answer; gemini-2.5-flash: provider google "
    assert any(line.startswith(gold) for line in lines)


def test_endpoints_with_keys_are_a_key(capsys: Output) -> None:
    _, lines = run(capsys, {"SIDECAR_PROVIDERS__OPENAI__ENDPOINTS__EU__API_KEY": "hush-o"})
    assert not any("provider openai" in line and "no key" in line for line in lines)
    assert lines[-1].endswith("providers configured: openai")


def test_alerts_that_cannot_be_sent_or_remembered_are_told(capsys: Output, tmp_path: Path) -> None:
    assert any(
        line.startswith("note    alerts: nobody is told of trouble")
        for line in run(capsys, ALL | {"SIDECAR_PROFILE__NAME": "production"})[1]
    )
    hook = ALL | {"SIDECAR_ALERTS__CHAT_URL": "https://hooks.example.com/T0/hush-hook"}
    status, lines = run(capsys, hook)
    assert status == 0
    assert any(line.startswith("note    alerts: without server.data_dir") for line in lines)
    status, lines = run(capsys, hook | {"SIDECAR_ALERTS__CA_FILE": f"{tmp_path}/none.pem"})
    assert status == 1
    assert f"error   alerts: SIDECAR_ALERTS__CA_FILE: cannot read certificates from {tmp_path}/none.pem: No such file or directory" in lines
    assert "hush" not in "".join(lines)


def test_names_that_fit_nothing_are_noted(capsys: Output) -> None:
    _, lines = run(capsys, ALL | {"ORACEL_LLM_MODEL": "gpt-4o", "MODEL_RAG_ANSWER": "gpt-4o"})
    known = "core, oracle, synapse, vision, weaver"
    assert f"note    service oracel: has settings and no node in the portfolio; known services: {known}" in lines
    assert "note    node rag.answer: MODEL_RAG_ANSWER names a node that is not in the portfolio" in lines


def test_json_says_the_same(capsys: Output) -> None:
    assert check(None, {"ANTHROPIC_API_KEY": "a"}, TODAY, live=False, as_json=True) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["profile"], report["providers"]) == (False, "local", ["anthropic"])
    assert {"level", "about", "message"} == set(report["findings"][0])


def test_unreadable_settings_are_one_line_and_status_2(capsys: Output, tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text("[server]\nlistn = 1\n")
    for command in ("check", "serve"):
        assert main([command, "--settings", str(file)]) == 2
        assert capsys.readouterr().err == f'sidecar: {file}: server.listn: no such key; did you mean "listen"?\n'


def test_the_variable_names_the_file(capsys: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECAR_SETTINGS", str(tmp_path / "none.toml"))
    assert main(["check"]) == 2
    assert capsys.readouterr().err == f"sidecar: {tmp_path / 'none.toml'}: cannot be read: No such file or directory\n"


def test_version(capsys: Output) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out.startswith("sidecar ")


class FakeSidecar(LLMServiceServicer):
    """Answers with what it was asked; refuses the prompt `refuse`, breaks off at `break`."""

    def Generate(self, request: GenerateRequest, context: grpc.ServicerContext) -> GenerateResponse:  # noqa: N802
        self._refuse(request, context)
        return self._answer(request, request.prompt)

    def Stream(self, request: GenerateRequest, context: grpc.ServicerContext) -> Iterator[StreamEvent]:  # noqa: N802
        self._refuse(request, context)
        yield StreamEvent(start=StreamStart(id="1"))
        for piece in request.prompt.split("|"):
            yield StreamEvent(text_delta=piece)
        if request.prompt == "break":
            context.abort(grpc.StatusCode.DATA_LOSS, "it was cut")
        yield StreamEvent(end=self._answer(request, ""))

    def Embed(self, request: EmbedRequest, context: grpc.ServicerContext) -> EmbedResponse:  # noqa: N802
        raise NotImplementedError

    def CountTokens(self, request: CountTokensRequest, context: grpc.ServicerContext) -> CountTokensResponse:  # noqa: N802
        raise NotImplementedError

    def _answer(self, request: GenerateRequest, text: str) -> GenerateResponse:
        caller = f"{request.caller.service}:{request.caller.node}:{request.model}:{request.system}"
        usage = Usage(input_tokens=3, cached_input_tokens=2, output_tokens=4, reasoning_tokens=1, estimated=True)
        return GenerateResponse(text=text, model="echo", provider="echo", usage=usage, cost=Cost(nano_usd=1_500), notices=[caller])

    def _refuse(self, request: GenerateRequest, context: grpc.ServicerContext) -> None:
        if request.prompt == "refuse":
            packed = Any()
            packed.Pack(ErrorInfo(reason="UNKNOWN_MODEL", domain="llm-sidecar"))
            context.abort_with_status(rpc_status.to_status(Status(code=3, message="no such\nmodel", details=[packed])))


@pytest.fixture
def target() -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2))
    add_LLMServiceServicer_to_server(FakeSidecar(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.mark.parametrize("stream", [[], ["--stream"]])
def test_ask_prints_the_answer_and_its_price(capsys: Output, target: str, stream: list[str]) -> None:
    arguments = ["--target", target, "--node", "oracle.summary", "--model", "gpt-4o", "--system", "be brief", "hello"]
    assert main(["ask", *stream, *arguments]) == 0
    out = capsys.readouterr().out
    assert out == "hello\n[echo/echo: about 5 tokens in, 5 out, 0.000001500 USD]\n(oracle:summary:gpt-4o:be brief)\n"


def test_ask_joins_the_pieces(capsys: Output, target: str) -> None:
    assert main(["ask", "--stream", "--target", target, "one |two |three"]) == 0
    assert capsys.readouterr().out.startswith("one two three\n")


@pytest.mark.parametrize("stream", [[], ["--stream"]])
def test_ask_tells_a_refusal_in_one_line(capsys: Output, target: str, stream: list[str]) -> None:
    assert main(["ask", *stream, "--target", target, "refuse"]) == 1
    assert capsys.readouterr().err.strip() == "sidecar ask: INVALID_ARGUMENT UNKNOWN_MODEL: no such model"


def test_ask_tells_a_cut_after_what_has_come(capsys: Output, target: str) -> None:
    assert main(["ask", "--stream", "--target", target, "break"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "break"
    assert captured.err == "\nsidecar ask: DATA_LOSS: it was cut\n"


def test_ask_without_a_sidecar_says_how_to_start_one(capsys: Output, tmp_path: Path) -> None:
    assert main(["ask", "--target", f"unix:{tmp_path}/none.sock", "hello"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"sidecar ask: UNAVAILABLE: no sidecar answers at unix:{tmp_path}/none.sock")
    assert "sidecar serve" in err
