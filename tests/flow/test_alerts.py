"""Alerts of real sidecars at real receivers: a chat, a signed webhook and a mailbox; two pods, restarts, receivers that are away."""

from __future__ import annotations

import asyncio
import base64
import hmac
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import aiohttp
import grpc
import pytest
import pytest_asyncio
import yaml

from sidecar.errors import Cancelled, RequestError
from sidecar.v1 import llm_pb2 as pb
from sidecar.v1 import ops_pb2
from tests.conftest import SMALL_MODELS
from tests.fakes.receivers import Hooks, Post, Told
from tests.fakes.running import ROOT, Sidecar, free_port, model_row, provider_tables, start
from tests.fakes.script import Fail, Say

KEY = "whsec_c2VjcmV0LWh1bnRlcjItc2VjcmV0"
SECRETS = ("hunter2", "hooks-hunter3", "c2VjcmV0LWh1bnRlcjItc2VjcmV0", "hunter4")
PLAIN = "[retries]\nunavailable = {retries = 0}\n"


@pytest_asyncio.fixture(loop_scope="session")
async def hooks() -> AsyncIterator[Hooks]:
    async with Hooks() as running:
        yield running


@pytest.fixture
def post() -> Iterator[Post]:
    with Post() as running:
        yield running


def chat(hooks: Hooks) -> str:
    return f'[alerts]\nchat_url = "{hooks.url}/chat/hooks-hunter3"\n'


def webhook(hooks: Hooks) -> str:
    return f'webhook_url = "{hooks.url}/program?sig=hunter4"\nwebhook_key = "{KEY}"\n'


def mail(post: Post) -> str:
    who = 'sender = "sidecar@example.com"\nrecipients = ["ops@example.com"]\n'
    return f'[alerts.mail]\nserver = "{post.address}"\nencryption = "none"\n{who}'


async def ask(sidecar: Sidecar, **more) -> str:
    """The answer, or the name of the status."""
    caller = pb.Caller(service="flow", node=more.pop("node", ""), tenant=more.pop("tenant", "acme"))
    request = {"prompt": "a secret question", "model": "compatible-default", "max_output_tokens": 10} | more
    try:
        return (await sidecar.llm.Generate(pb.GenerateRequest(caller=caller, **request), timeout=15)).text
    except grpc.aio.AioRpcError as error:
        return error.code().name


async def spend(sidecar: Sidecar, tenant: str = "acme") -> None:
    """Until the tenant's day is used up: about ten calls of a day of 0.0004 USD."""
    for _ in range(50):
        if await ask(sidecar, tenant=tenant) == "RESOURCE_EXHAUSTED":
            return
    raise AssertionError("the budget is never used up")


def signed(told: Told) -> bool:
    message = f"{told.headers['webhook-id']}.{told.headers['webhook-timestamp']}.".encode() + told.body
    key = base64.b64decode(KEY.removeprefix("whsec_"))
    return told.headers["webhook-signature"] == f"v1,{base64.b64encode(hmac.digest(key, message, 'sha256')).decode()}"


def abouts(hooks: Hooks) -> list[str]:
    """What was told of; of a budget without window and limit."""
    return ["|".join(one.json["data"]["about"].split("|")[:3]) for one in hooks.at("/program")]


async def outcomes(sidecar: Sidecar, least: float, **labels: str) -> None:
    """Wait until so many alerts have come to this outcome."""
    async with asyncio.timeout(20):
        while (await sidecar.metrics())("llm_alerts_total", **labels) < least:  # noqa: ASYNC110  (another process')
            await asyncio.sleep(0.05)


async def no_secret(sidecar: Sidecar) -> None:
    notices = (await sidecar.ops.GetStatus(ops_pb2.GetStatusRequest())).notices
    events = (await sidecar.ops.ListEvents(ops_pb2.ListEventsRequest(limit=1000))).events
    everything = f"{sidecar.log} {notices} {events}"
    assert not [secret for secret in SECRETS if secret in everything]


DAY = '[limits]\ntenant_day_usd = "0.0004"\n'
WARNED, REFUSED = "budget|tenant:acme:day|80", "budget|tenant:acme:day|100"


@pytest_asyncio.fixture(loop_scope="session")
async def start_own(upstream, tmp_path) -> AsyncIterator[Callable[..., Awaitable[Sidecar]]]:
    """A factory of sidecars whose settings are all the test's own."""
    running: list[Sidecar] = []

    async def factory(tables: str, server: str = "") -> Sidecar:
        own = PLAIN + provider_tables(upstream.url, "compatible") + SMALL_MODELS
        running.append(await start(tmp_path, own + tables, server))
        return await running[-1].until_serving()

    yield factory
    for one in running:
        await one.stop(within_s=5)


async def test_a_budget_is_told_to_everybody_once_at_each_threshold(start_own, hooks, post, upstream):
    upstream.on("compatible-default", Say(pieces=("a secret answer",)))
    sidecar = await start_own(DAY + chat(hooks) + webhook(hooks) + mail(post))
    await spend(sidecar)
    await spend(sidecar)  # refused again: no news
    first, second = await hooks.until(2, "/program")
    assert abouts(hooks) == [WARNED, REFUSED]
    assert (first.json["data"]["severity"], second.json["data"]["severity"]) == ("warning", "critical")
    assert first.json["type"] == "alert"
    assert first.json["data"]["message"].startswith("account tenant:acme:day has reached 80 % of its limit: 0.000")
    assert first.json["data"]["facts"]["limit"] == "400000"
    assert signed(first)
    assert signed(second)
    assert first.headers["webhook-id"] != second.headers["webhook-id"]
    assert abs(int(first.headers["webhook-timestamp"]) - time.time()) < 60

    await outcomes(sidecar, 2, receiver="chat", outcome="sent")
    text = "\n".join(one.json["text"] for one in hooks.at("/chat"))
    assert text.count("*warning*: account tenant:acme:day has reached 80 %") == 1
    assert text.count("*critical*: account tenant:acme:day refuses calls") == 1
    assert {tuple(one.json) for one in hooks.at("/chat")} == {("text",)}

    await outcomes(sidecar, 2, receiver="mail", outcome="sent")
    letters = "\n".join(one.message.get_content() for one in post.letters)
    assert letters.count("account tenant:acme:day") == 2
    everything = text + letters + "".join(one.body.decode() for one in hooks.told)
    assert "a secret" not in everything
    await no_secret(sidecar)


async def test_what_callers_named_is_no_link_and_calls_nobody(start_own, hooks):
    sidecar = await start_own(DAY + chat(hooks) + '[nodes.flow.free]\nprimary = "compatible/unpriced"\n')
    await hooks.until(1, "/chat")
    assert "*warning*: compatible/unpriced has no price, so its calls are counted as free" in hooks.at("/chat")[0].json["text"]
    await spend(sidecar, "<!channel>&")
    await outcomes(sidecar, 2, receiver="chat", outcome="sent")
    text = "".join(one.json["text"] for one in hooks.at("/chat"))
    assert "tenant:&lt;!channel&gt;&amp;:day" in text
    assert "<" not in text


async def test_nothing_is_told_twice_over_a_restart_and_what_was_not_sent_is_sent_by_the_next_process(start_own, hooks, tmp_path):
    server = f'data_dir = "{tmp_path}/kept"'
    tables = DAY + chat(hooks) + webhook(hooks)
    hooks.answers = [(503, {})] * 1000
    first = await start_own(tables, server)
    await spend(first)
    await outcomes(first, 1, receiver="webhook", outcome="failed")
    first.process.kill()
    await first.process.wait()
    assert hooks.told == []

    hooks.answers = []
    second = await start_own(tables, server)
    await hooks.until(2, "/program")
    await outcomes(second, 2, receiver="chat", outcome="sent")
    assert sorted(abouts(hooks)) == sorted([WARNED, REFUSED])
    await second.stop()
    third = await start_own(tables, server)
    await spend(third)
    await spend(third, "other")
    await hooks.until(4, "/program")
    assert abouts(hooks)[2:] == [one.replace("acme", "other") for one in (WARNED, REFUSED)]


async def test_a_receiver_that_is_away_costs_no_call_and_no_end(start_own, hooks, post):
    hooks.hangs = True
    sidecar = await start_own(DAY + chat(hooks) + webhook(hooks) + mail(post))
    begun = time.monotonic()
    await spend(sidecar)
    for _ in range(20):
        assert await ask(sidecar, tenant="other", model="echo/echo")
    assert time.monotonic() - begun < 10  # nothing waits for the 10 s that a receiver may take
    await post.until(2)  # and no receiver for another one
    begun = time.monotonic()
    assert await sidecar.stop() == 0
    assert time.monotonic() - begun < 8  # 2 s for what is unsent
    left = [line for line in sidecar.log.splitlines() if "alerts were not sent" in line]
    assert len(left) == 2


async def test_a_busy_receiver_gets_it_later_and_its_trouble_is_told_without_its_address(start_own, hooks):
    hooks.answers = [(404, {}), (429, {"retry-after": "1"})]
    sidecar = await start_own(DAY + chat(hooks))
    await spend(sidecar)
    await hooks.until(1, "/chat")
    await outcomes(sidecar, 2, receiver="chat", outcome="sent")
    events = (await sidecar.ops.ListEvents(ops_pb2.ListEventsRequest(kind="alerts"))).events
    assert [event.message for event in reversed(events)] == [
        "alerts by chat: the receiver answers with HTTP 404; they wait and are tried again",
        "alerts by chat: the receiver answers with HTTP 429; they wait and are tried again",
        "alerts by chat arrive again",
    ]
    assert (await sidecar.metrics())("llm_alerts_waiting", receiver="chat") == 0
    await no_secret(sidecar)

    await hooks.stop()
    await spend(sidecar, "other")
    await outcomes(sidecar, 3, receiver="chat", outcome="failed")
    (notice,) = [one for one in (await sidecar.ops.GetStatus(ops_pb2.GetStatusRequest())).notices if "alerts" in one]
    assert notice == "alerts by chat: the receiver cannot be reached: Connection refused; they wait and are tried again"
    await no_secret(sidecar)


async def test_failing_providers_raise_alerts_and_their_recovery_ends_them(start_own, hooks, upstream):
    tables = (
        '[nodes.flow.single]\nprimary = "compatible/down"\nfallbacks = ["compatible/poor"]\n'
        '[limits]\ncall_notify_usd = "0.00001"\ncall_log_usd = "0"\ncall_halt_usd = "0.01"\n'
        "[services.flow]\nbreaker_open_ms = 500\n"
    )
    models = "".join(model_row(name, "compatible") for name in ("down", "poor", "refusing", "spent"))
    sidecar = await start_own(models + tables + chat(hooks) + 'webhook_least = "info"\n' + webhook(hooks))
    upstream.on("down", Fail(503))
    upstream.on("poor", Fail(503))
    for _ in range(4):
        await ask(sidecar, model="", node="single")
    await hooks.until(3, "/program")
    assert sorted(one.json["data"]["kind"] for one in hooks.at("/program")) == ["breaker", "breaker", "health"]
    (node,) = [one.json["data"] for one in hooks.at("/program") if one.json["data"]["kind"] == "health"]
    assert (node["severity"], node["about"]) == ("critical", "node|flow.single")
    upstream.on("down", Say())
    upstream.on("poor", Say())
    async with asyncio.timeout(20):
        while not [one for one in hooks.at("/program") if one.json["type"] == "alert.over"]:
            await ask(sidecar, model="", node="single")
            await asyncio.sleep(0.1)
    assert "*over*" not in "".join(one.json["text"] for one in hooks.at("/chat"))  # chat_least is warning

    upstream.on("refusing", Fail(401))
    upstream.on("spent", Fail(429, code="insufficient_quota"))
    before = len(hooks.at("/program"))
    for _ in range(2):
        await ask(sidecar, model="compatible/refusing")
        await ask(sidecar, model="compatible/spent")
        await ask(sidecar)  # dear: above call_notify_usd
        assert await ask(sidecar, max_output_tokens=8_000) == "RESOURCE_EXHAUSTED"  # above call_halt_usd
    told = [one.json["data"] for one in (await hooks.until(before + 4, "/program"))[before:]]
    assert [(one["severity"], one["about"]) for one in told] == [
        ("critical", "aside|PROVIDER_AUTH_FAILED|compatible"),
        ("warning", "aside|PROVIDER_QUOTA_EXHAUSTED|compatible/spent"),
        ("warning", "dear|acme|flow|notify"),
        ("critical", "dear|acme|flow|halt"),
    ]
    assert told[0]["message"] == "compatible refuses its key; others are asked before it for a while"
    assert "scripted failure" not in str(told)  # a provider's own words may hold anything


async def test_two_pods_that_share_a_redis_tell_it_once(server, start_own, hooks):
    tables = DAY + f'[redis]\nurl = "{server.url}"\n[fleet]\nshare_budgets = false\n' + chat(hooks) + webhook(hooks)
    pods = [await start_own(tables), await start_own(tables)]
    for one in pods:
        await spend(one)
    for outcome in ("sent", "told_elsewhere"):
        async with asyncio.timeout(20):
            while sum([(await p.metrics())("llm_alerts_total", receiver="webhook", outcome=outcome) for p in pods]) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    assert sorted(abouts(hooks)) == sorted([WARNED, REFUSED])
    text = "".join(one.json["text"] for one in hooks.at("/chat"))
    assert text.count("account tenant:acme:day") == 2

    server.kill()  # then each pod tells for itself: twice is better than never
    for one in pods:
        await spend(one, "other")
    async with asyncio.timeout(20):
        while len(told := sorted(about for about in abouts(hooks) if "other" in about)) < 4:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    # What was told before needs no Redis to be remembered.
    assert told == sorted(2 * [about.replace("acme", "other") for about in (WARNED, REFUSED)])
    assert abouts(hooks).count(WARNED) == 1
    assert "health|redis" in abouts(hooks)  # that Redis is gone


async def unsettled(pods: list[Sidecar]) -> float:
    """Alerts for programs that a pod has neither sent nor heard of from another one."""
    return sum([(await one.metrics())("llm_alerts_waiting", receiver="webhook") for one in pods])


async def test_a_redis_that_does_not_answer_keeps_no_alert_back_and_when_it_does_again_pods_tell_once(server, start_own, hooks):
    tables = DAY + f'[redis]\nurl = "{server.url}"\n[fleet]\nshare_budgets = false\n' + chat(hooks) + webhook(hooks)
    pods = [await start_own(tables), await start_own(tables)]
    server.freeze()
    try:
        await spend(pods[0])
        async with asyncio.timeout(40):
            while not {WARNED, REFUSED} <= {*abouts(hooks)}:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert [about for about in abouts(hooks) if about.startswith("budget")] == [WARNED, REFUSED]
    finally:
        server.thaw()
    async with asyncio.timeout(40):
        for one in pods:
            while (await one.metrics())("llm_redis_up") != 1:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    for one in pods:
        await spend(one, "other")
    async with asyncio.timeout(40):
        while sum("tenant:other" in about for about in abouts(hooks)) < 2 or await unsettled(pods):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    told = [about for about in abouts(hooks) if "tenant:other" in about]
    assert sorted(told) == sorted(about.replace("acme", "other") for about in (WARNED, REFUSED))


async def test_what_all_pods_have_spent_together_is_told_where_none_has_alone(server, start_own, hooks):
    limits = '[limits]\ntenant_day_usd = "0.001"\n[budgets.company_day_warning]\nlimit_usd = "0.0006"\n'
    tables = limits + f'[redis]\nurl = "{server.url}"\n[fleet]\nlearn_ms = 500\n' + chat(hooks) + webhook(hooks)
    pods = [await start_own(tables), await start_own(tables)]
    for _ in range(11):  # of 0.000039 USD, at each pod: 43 % of the tenant's day
        for one in pods:
            assert "EXHAUSTED" not in await ask(one)
    await hooks.until(2, "/program")
    async with asyncio.timeout(30):
        while len(hooks.at("/program")) < 3:  # while one pod holds what the other needs, it is not used up
            for one in pods:
                await ask(one)
            await asyncio.sleep(0.1)
    for one in pods:
        events = (await one.ops.ListEvents(ops_pb2.ListEventsRequest(kind="budget"))).events
        seen = [(event.facts["account"], event.facts["threshold"]) for event in events]
        assert len(seen) == len(set(seen))
    await asyncio.gather(*(one.stop() for one in pods))
    assert sorted(abouts(hooks)) == sorted(["budget|company:day_warning|100", REFUSED, WARNED])
    (message,) = [one.json["data"]["message"] for one in hooks.at("/program") if "company" in str(one.json)]
    assert message.startswith("account company:day_warning has reached 100 % of its limit: 0.000")
    assert message.endswith("of 0.000600 USD are used by all pods")


async def test_prometheus_rules_ask_for_metrics_and_reasons_that_there_are(start_own, hooks, tmp_path):
    rules = yaml.safe_load((ROOT / "deploy/prometheus-alerts.yaml").read_text())["groups"][0]["rules"]
    nobody = f'[redis]\nurl = "redis://127.0.0.1:{free_port()}/0"\n'
    sidecar = await start_own(nobody + chat(hooks), f'data_dir = "{tmp_path}/kept"')
    await ask(sidecar)
    async with aiohttp.ClientSession() as session, session.get(f"{sidecar.ops_url}/metrics") as reply:
        page = await reply.text()
    asked = {name for rule in rules for name in re.findall(r"\bllm_\w+", rule["expr"])}
    assert len(asked) > 8
    assert sorted(name for name in asked if not re.search(rf"^(# TYPE )?{name}[ {{]", page, re.MULTILINE)) == []

    def below(kind: type) -> Iterator[type]:
        for child in kind.__subclasses__():
            yield child
            yield from below(child)

    (failed,) = [rule["expr"] for rule in rules if rule["alert"] == "LlmErrors"]
    (left_out,) = re.findall(r'status!~"([^"]+)"', failed)
    assert set(left_out.split("|")) == {"ok", Cancelled.reason} | {kind.reason for kind in below(RequestError)}
