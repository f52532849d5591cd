"""Tokens: who is let in, and what a token says of its calls."""

from hashlib import sha256

import pytest

from sidecar.edge.keys import Keys
from sidecar.errors import NotAllowed, Unauthenticated
from sidecar.request import NOBODY, Caller
from sidecar.settings.doors import Auth, Token


def hashed(token: str) -> str:
    return sha256(token.encode()).hexdigest()


KEYS = Keys(
    Auth(
        {"a": Token(hashed("alpha"), tenant="acme", service="oracle", node="oracle.summary"), "b": Token(hashed("beta"))},
        ops_sha256=hashed("ops"),
    )
)


@pytest.mark.parametrize("sent", ["Bearer alpha", "bearer alpha", "BEARER  alpha "])
def test_a_known_token_has_its_name(sent: str) -> None:
    assert KEYS.name_of(sent) == "a"


@pytest.mark.parametrize(
    "sent", ["", "alpha", "Basic alpha", "Bearer", "Bearer ", "Bearer alph", "Bearer alpha2", f"Bearer {hashed('alpha')}", "Bearer \udce4"]
)
def test_all_others_are_refused(sent: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        KEYS.name_of(sent)
    assert "alph" not in caught.value.message


def test_where_nobody_needs_a_token_anybody_may_have_one() -> None:
    assert Keys(Auth()).name_of("Bearer sk-anything") == ""
    assert Keys(Auth(ops_sha256=hashed("ops"))).name_of("") == ""


def test_what_the_token_says_is_written_down() -> None:
    metadata = {"x-sidecar-user": "kim"}
    KEYS.admit("Bearer alpha", NOBODY, metadata)
    assert metadata == {
        "x-sidecar-user": "kim",
        "x-sidecar-tenant": "acme",
        "x-sidecar-service": "oracle",
        "x-sidecar-node": "oracle.summary",
    }
    metadata = {"x-sidecar-tenant": "globex"}
    KEYS.admit("Bearer beta", NOBODY, metadata)
    assert metadata == {"x-sidecar-tenant": "globex"}


@pytest.mark.parametrize(
    "caller", [Caller(), Caller(tenant="acme", service="oracle"), Caller(node="summary"), Caller(node="oracle.summary")]
)
def test_the_same_may_be_said_again(caller: Caller) -> None:
    KEYS.admit("Bearer alpha", caller, {})


@pytest.mark.parametrize(
    ("caller", "metadata"),
    [
        (Caller(tenant="globex"), {}),
        (Caller(tenant="acme"), {"x-sidecar-tenant": "globex"}),
        (Caller(service="core"), {}),
        (Caller(node="core.summary"), {}),
        (Caller(node="oracle.intent"), {}),
    ],
)
def test_something_else_may_not(caller: Caller, metadata: dict[str, str]) -> None:
    with pytest.raises(NotAllowed):
        KEYS.admit("Bearer alpha", caller, metadata)


def test_operators() -> None:
    KEYS.require_operator("Bearer ops")
    for sent in ("", "Bearer alpha", "ops"):
        with pytest.raises(Unauthenticated):
            KEYS.require_operator(sent)
    with pytest.raises(NotAllowed):
        Keys(Auth({"a": Token(hashed("alpha"))})).require_operator("Bearer alpha")
    Keys(Auth()).require_operator("")
