"""Trailers stay below what peers take, whatever a caller or a provider wrote, and what matters arrives in them."""

from __future__ import annotations

from base64 import b64encode
from urllib.parse import quote

import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, QuotaFailure
from google.rpc.status_pb2 import Status
from grpc import StatusCode
from msgspec.structs import replace

from sidecar.call import Chunk, ToolDelta
from sidecar.edge.status import DETAILS_KEY, status_of
from sidecar.errors import BudgetExceeded, InvalidRequest, ProviderRejected, ProviderUnavailable, RequestError, StreamCut
from sidecar.policies.degradation import Advice
from sidecar.v1 import errors_pb2
from tests.unit.fakes import DONE, Bench
from tests.unit.test_errors import CONCRETE, make

MOST_TRAILERS = 8_192  # grpc-java's limit, the lowest among gRPC's own libraries


def trailers_size(code, message, details):
    """As HTTP/2 counts a header list: names, values and 32 bytes for each."""
    sent = {
        ":status": "200",
        "content-type": "application/grpc",
        "grpc-status": str(code.value[0]),
        "grpc-message": quote(message, safe=" "),
        DETAILS_KEY: b64encode(details).decode(),
    }
    return sum(len(name) + len(value) + 32 for name, value in sent.items())


ADVICE = Advice("requeue", "Later.", "en", 503, 2, "NO_AI")


def told(error, call=None, advice=ADVICE):
    """The status in its parts, after proof that it is small enough and that Partial is its last part."""
    code, message, details = status_of(error, call, advice)
    assert trailers_size(code, message, details) <= MOST_TRAILERS
    status = Status.FromString(details)
    assert (status.code, status.message) == (code.value[0], message)
    found = {}
    for detail in status.details:
        assert errors_pb2.Partial not in found
        for kind in (ErrorInfo, BadRequest, QuotaFailure, errors_pb2.Degradation, errors_pb2.Partial):
            if detail.Is(kind.DESCRIPTOR):
                found[kind] = kind.FromString(detail.value)
    assert found[ErrorInfo].reason == error.reason
    return code, message, found


async def broken(chunks, **fields):
    """A call that was answered with these chunks; its answer is then taken to be broken."""
    bench = Bench(first=[(*chunks, DONE)])
    return await bench.run(stream=False, **fields)


ERROR = StreamCut("openai stopped", request_id="r" * 5_000, code="c" * 5_000)


@pytest.mark.parametrize("letter", ["a", "%", "ü", "語", "🙂", "\n", "\ud83d"], ids=ascii)
@pytest.mark.parametrize("length", [0, 100, 512, 513, 100_000])
def test_message_of_any_length(letter, length):
    text = f"messages[0] is {letter * length}"
    code, message, found = told(InvalidRequest(text, field=f"provider_options.{letter * length}"))
    assert code is StatusCode.INVALID_ARGUMENT
    if letter != "\ud83d" and len(text.encode()) <= 512:
        assert message == text
    elif letter != "\ud83d":
        assert message.endswith("…")
        assert text.startswith(message[:-1])
        assert 508 <= len(message.encode()) <= 512
    assert found[BadRequest].field_violations[0].description == message
    assert found[BadRequest].field_violations[0].field.startswith("provider_options.")


@pytest.mark.parametrize(("letter", "size"), [("a", 1), ("ü", 2), ("語", 3), ("🙂", 4)])
@pytest.mark.parametrize("length", [1, 511, 512, 2_048, 30_000])
async def test_partial_text_is_cut_between_characters(letter, size, length):
    call = await broken([Chunk(text=letter * length)])
    _, _, found = told(ERROR, call)
    partial = found[errors_pb2.Partial]
    if length * size <= 2_048:
        assert partial.text == letter * length
    else:
        assert partial.text == letter * ((2_048 - 3) // size) + "…"
    assert partial.usage.input_tokens == 10
    assert partial.cost.nano_usd == call.nano_usd > 0
    assert [tried.outcome for tried in partial.attempts] == ["ok"]


async def test_long_tool_call_is_cut_in_its_arguments():
    arguments = '{"text": "' + "ü" * 15_000 + '"}'
    calls = (
        ToolDelta(0, "call_1", "first", "{}", "signed"),
        ToolDelta(1, "call_2", "second", arguments, "s" * 10_000),
        ToolDelta(2, "call_3", "third", "{}"),
    )
    call = await broken([Chunk(text="🙂" * 2_048, tool_calls=calls)])
    _, _, found = told(ERROR, call)
    partial = found[errors_pb2.Partial]
    first, second = partial.tool_calls
    assert (first.id, first.name, first.arguments, first.signature) == ("call_1", "first", "{}", "signed")
    assert (second.id, second.name, second.signature) == ("call_2", "second", "")
    assert len(second.arguments) > 100
    assert second.arguments.endswith("ü…")
    assert arguments.startswith(second.arguments[:-1])
    assert partial.cost.nano_usd == call.nano_usd > 0


async def test_tool_call_with_a_name_beyond_measure_is_left_out():
    call = await broken([Chunk(text="so far", tool_calls=(ToolDelta(0, "call_1", "n" * 30_000, "{}"),))])
    _, _, found = told(ERROR, call)
    assert not found[errors_pb2.Partial].tool_calls
    assert found[errors_pb2.Partial].text == "so far"


async def test_of_many_tries_the_last_are_told():
    call = await broken([Chunk(text="x" * 5_000)])
    call.attempts *= 100
    _, _, found = told(ProviderRejected("語" * 5_000, status=400, code="c" * 5_000, request_id="r" * 5_000), call)
    partial = found[errors_pb2.Partial]
    assert 10 < len(partial.attempts) < 100
    assert partial.text.startswith("x" * 500)
    assert found[ErrorInfo].metadata["id"] == call.id


async def test_model_name_beyond_measure():
    name = "m" * 7_000
    call = await broken([Chunk(text="hi")])
    call.served = replace(call.served, model=replace(call.served.model, id=f"compatible/{name}"))
    call.attempts = [replace(call.attempts[0], candidate=call.served)]
    _, _, found = told(ERROR, call)
    assert found[errors_pb2.Partial].model.startswith("compatible/mmm")
    assert found[ErrorInfo].metadata["model"] == found[errors_pb2.Partial].model
    assert found[errors_pb2.Partial].cost.nano_usd == call.nano_usd > 0


def test_account_beyond_measure():
    account = f"tenant:{'ü' * 128}:day"
    error = BudgetExceeded(
        f"{account} is used up", account=account, unit="tokens", limit=1, used=1, asked=1, resets_at_ns=None, retry_after_ms=5
    )
    _, message, found = told(error)
    assert message == error.message
    assert found[QuotaFailure].violations[0].subject.startswith("tenant:ü")


# Another request, or none, is what helps; all other reasons are nobody's fault who asks.
OWN_FAULT = {"PROVIDER_REJECTED", "PROVIDER_CONTEXT_EXCEEDED", "CANCELLED", "NOT_CACHED"}


@pytest.mark.parametrize("error", CONCRETE, ids=lambda c: c.__name__)
def test_what_the_caller_can_do_goes_with_every_failure_that_is_not_its_own(error):
    code, _, found = told(make(error))
    told_so = errors_pb2.Degradation in found
    assert told_so == (not issubclass(error, RequestError) and error.reason not in OWN_FAULT)
    if code is StatusCode.INVALID_ARGUMENT:
        assert not told_so
    if told_so:
        expected = errors_pb2.Degradation(action="requeue", message="Later.", language="en", http_status=503, most_retries=2, code="NO_AI")
        assert found[errors_pb2.Degradation] == expected
    manual = found[ErrorInfo].metadata.get("mode") == "manual"
    assert manual == (told_so and error.reason.startswith(("PROVIDER_", "BUDGET_", "STREAM_", "SCHEMA_", "NO_CANDIDATE")))


def test_an_rpc_that_no_model_answers_has_no_advice():
    _, _, found = told(ProviderUnavailable("down"), advice=None)
    assert errors_pb2.Degradation not in found


async def test_everything_beyond_measure_at_once():
    long = "語" * 5_000
    call = await broken([Chunk(text=long, tool_calls=(ToolDelta(0, "call_1", "first", "{}", "s" * 9_000),))])
    call.served = replace(call.served, model=replace(call.served.model, id=long, provider=long))
    call.attempts = [replace(call.attempts[0], candidate=call.served)] * 100
    error = BudgetExceeded(long, account=long, unit="tokens", limit=10**15, used=10**15, asked=10**15, resets_at_ns=None, retry_after_ms=5)
    _, _, found = told(error, call, Advice(long, long, "ko", 503, 100, long))
    advice = found[errors_pb2.Degradation]
    assert advice.message.startswith("語" * 160)
    assert advice.message.endswith("…")
    assert advice.action.endswith("…")
    assert found[errors_pb2.Partial].cost.nano_usd == call.nano_usd > 0
