"""What is read from headers and from the exceptions below HTTP. The client itself is tested over a socket by the providers' tests."""

from __future__ import annotations

import ssl
from email.utils import formatdate

import aiohttp
import aiohttp.http_exceptions
import httpx2
import pytest

from sidecar.errors import ProviderGarbled, ProviderTimeout, ProviderUnavailable, StreamCut
from sidecar.providers.http import TRANSPORT, head, retry_after_ms, scrubbed, transport_error


def _subclasses(kind: type[BaseException]) -> set[type[BaseException]]:
    return {kind}.union(*(_subclasses(below) for below in kind.__subclasses__()))


# Exceptions that only wrong use of the library or a web socket can raise, and those of reading HTTP that ClientError's kinds wrap.
_ROOTS = (aiohttp.ClientError, httpx2.HTTPError, httpx2.InvalidURL, httpx2.CookieConflict, httpx2.StreamError)


@pytest.mark.parametrize("kind", sorted({k for root in _ROOTS for k in _subclasses(root)}, key=str), ids=str)
def test_every_transport_exception_has_a_row(kind: type[BaseException]) -> None:
    package = kind.__module__.partition(".")[0]
    if package not in ("aiohttp", "httpx2"):
        pytest.skip("made by another test or SDK")
    assert f"{package}.{kind.__name__}" in TRANSPORT


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (aiohttp.ServerDisconnectedError(), ProviderUnavailable),
        (aiohttp.SocketTimeoutError("slow"), ProviderTimeout),
        (aiohttp.http_exceptions.BadStatusLine("HTTP?"), ProviderGarbled),
        (ConnectionResetError("reset"), ProviderUnavailable),
        (TimeoutError(), ProviderTimeout),
        (ssl.SSLCertVerificationError("bad"), ProviderUnavailable),
    ],
)
def test_a_transport_exception_is_known_by_its_nearest_class(error: Exception, kind: type[Exception]) -> None:
    assert type(transport_error(error, "a/b")) is kind


def test_a_connection_lost_in_a_stream_cuts_it_but_a_timeout_stays_one() -> None:
    assert type(transport_error(aiohttp.ClientPayloadError("cut"), "a/b", begun=True)) is StreamCut
    assert type(transport_error(aiohttp.SocketTimeoutError("slow"), "a/b", begun=True)) is ProviderTimeout


def test_our_own_error_stays_and_a_defect_is_raised_again() -> None:
    ours = ProviderGarbled("known")
    assert transport_error(ours, "a/b") is ours
    with pytest.raises(KeyError):
        transport_error(KeyError("x"), "a/b")


def test_a_transport_error_says_who_what_and_no_key() -> None:
    error = transport_error(aiohttp.ClientPayloadError("cut at secret-key"), "llama/m", key="secret-key")
    assert error.message.startswith("llama/m: ")
    assert "(ClientPayloadError: cut at [key])" in error.message


@pytest.mark.parametrize(
    ("headers", "wait_ms"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2000),
        ({"retry-after": " 0.5 "}, 500),
        ({"retry-after": "0"}, 0),
        ({"retry-after-ms": "250.4", "retry-after": "9"}, 250),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9000),
        ({"retry-after": "Sat, 21 Nov 2026 10:00:07 GMT", "date": "Sat, 21 Nov 2026 10:00:00 GMT"}, 7000),
        ({"retry-after": "Sat, 21 Nov 2026 09:00:00 GMT", "date": "Sat, 21 Nov 2026 10:00:00 GMT"}, 0),
        ({"retry-after": "Sat, 21 Nov 1998 09:00:00 GMT"}, 0),
        ({"retry-after": formatdate(4102444800, usegmt=True), "date": "no date"}, "long"),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e400"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Sat, 99 Nov 2026 10:00:07 GMT"}, None),
    ],
)
def test_retry_after(headers: dict[str, str], wait_ms: int | str | None) -> None:
    found = retry_after_ms(headers)
    assert (found is not None and found > 10**9) if wait_ms == "long" else found == wait_ms


def test_head_keeps_the_request_id_and_the_limits() -> None:
    said = head(
        {
            "Request-Id": "req_1",
            "X-RateLimit-Reset-Tokens": "6m0s",
            "anthropic-ratelimit-requests-remaining": "7",
            "Date": "x",
            "Server": "y",
        },
        "secret",
    )
    assert said.request_id == "req_1"
    assert said.limits == {"x-ratelimit-reset-tokens": "6m0s", "anthropic-ratelimit-requests-remaining": "7"}


def test_a_request_id_that_holds_the_key_is_shown_without_it() -> None:
    assert head({"request-id": "req_my-secret-key"}, "my-secret-key").request_id == "req_[key]"


@pytest.mark.parametrize("text", ["a" * 1_000_000, "*" * 1_000_000, "sk-" * 300_000, "bearer " * 100_000, " " * 1_000_000], ids=len)
def test_whoever_writes_an_error_does_not_choose_how_long_it_is_looked_at(text: str) -> None:
    assert len(scrubbed(text, "secret")) <= 300  # a quadratic look at these would outlast every timeout of the tests


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Incorrect API key provided: sk-proj-Ab12_xyz-90.", "Incorrect API key provided: [key]"),
        ("Incorrect API key provided: abcd****wxyz. Find", "Incorrect API key provided: [key] Find"),
        ("key AIzaSyA-abc_123456 is bad", "key [key] is bad"),
        ("Authorization: Bearer abc.def", "Authorization: [key]"),
        ("mine is 0xSECRET!", "mine is [key]!"),
        ("two\nlines\t of  it", "two lines of it"),
        ("task-based and risk-averse", "task-based and risk-averse"),
        ("a" * 301, "a" * 299 + "…"),
    ],
)
def test_scrubbed(text: str, shown: str) -> None:
    assert scrubbed(text, "0xSECRET") == shown
