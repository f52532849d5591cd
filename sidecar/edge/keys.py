"""Who may call: tokens against their hashes, and what a token says of its calls."""

from __future__ import annotations

import hmac
from hashlib import sha256

from sidecar.edge.arrivals import CALLER
from sidecar.errors import NotAllowed, Unauthenticated
from sidecar.request import Caller
from sidecar.settings.doors import Auth, Token

_HOW = "send it as `authorization: Bearer TOKEN`"


class Keys:
    """Looks tokens up. Only their hashes are known here, and all of them are compared, in a time that does not tell how near a guess was.

    `authorization` is that header's, or that metadata's, value; "" where there is none.
    """

    def __init__(self, auth: Auth) -> None:
        self._tokens = auth.tokens
        self._operators = auth.ops_sha256

    @property
    def is_needed(self) -> bool:
        """Calls need a token."""
        return bool(self._tokens)

    def name_of(self, authorization: str) -> str:
        """The name of the caller's token; "" where nobody needs one. Raises Unauthenticated."""
        if not self._tokens:
            return ""
        hashed = _hashed(authorization)
        found = ""
        for name, token in self._tokens.items():
            if hmac.compare_digest(hashed, token.sha256):
                found = name
        if not found:
            what = "the token is not known here" if authorization else "the call came without a token"
            raise Unauthenticated(f"{what}; {_HOW}, one whose SHA-256 is in auth.tokens of the settings", field="authorization")
        return found

    def admit(self, authorization: str, caller: Caller, metadata: dict[str, str]) -> None:
        """Writes into `metadata` what the token says of its calls.

        Raises Unauthenticated, or NotAllowed where the call says something else than its token.
        """
        name = self.name_of(authorization)
        if not name:
            return
        token = self._tokens[name]
        for field in CALLER:
            fixed = getattr(token, field)
            if fixed:
                for said in (getattr(caller, field), metadata.get(f"x-sidecar-{field}", "")):
                    _require_same(token, name, field, said)
                metadata[f"x-sidecar-{field}"] = fixed

    def require_operator(self, authorization: str) -> None:
        """Raises Unauthenticated for whoever is not the operator, and NotAllowed where no operator's token is set though calls need one."""
        if self._operators is None:
            if self._tokens:
                raise NotAllowed("operators have no token here, and callers have: set auth.ops_sha256 to let operators in")
        elif not hmac.compare_digest(_hashed(authorization), self._operators):
            raise Unauthenticated(f"operators need a token of their own (auth.ops_sha256); {_HOW}", field="authorization")


def _require_same(token: Token, name: str, field: str, said: str) -> None:
    fixed: str = getattr(token, field)
    bare = field == "node" and said == fixed.partition(".")[2]
    if said and said != fixed and not bare:
        raise NotAllowed(
            f"caller.{field} is {said[:80]!r}, but the token {name} is {field} {fixed!r}'s; leave it out", field=f"caller.{field}"
        )


def _hashed(authorization: str) -> str:
    scheme, _, token = authorization.partition(" ")
    token = token.strip() if scheme.lower() == "bearer" else ""
    return sha256(token.encode(errors="surrogateescape")).hexdigest()
