"""Where alerts go: a chat, a program. What is sent, how it is signed, and what an answer means; for e-mail see `mail.py`."""

from __future__ import annotations

import base64
import hmac
import os
import ssl
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import aiohttp
import msgspec
from msgspec import Struct

from sidecar import VERSION
from sidecar.observe.alerts import Alert

_ANSWER_S: Final = 10.0
_ITS_FAULT: Final = (400, 413, 414, 422)  # this message is not taken, another one may be
_MOST_TEXT: Final = 12_000  # characters: chats cut longer messages, or refuse them
_LONGEST_WAIT_S: Final = 3_600.0


class From(Struct, frozen=True):
    """Who tells."""

    pod: str
    environment: str


class NotSent(Exception):
    """Nothing arrived, as far as is known. The text is for operators and holds no address, key or password.

    `again_s` is how long the receiver asks to be left alone. `is_final`: this message will never be taken.
    """

    def __init__(self, problem: str, *, again_s: float = 0.0, is_final: bool = False) -> None:
        super().__init__(problem)
        self.again_s = again_s
        self.is_final = is_final


class Receiver(Protocol):
    """One place where alerts go. `most` of them go in one message."""

    name: str
    most: int

    async def send(self, alerts: Sequence[Alert]) -> str:
        """Returns what was not quite right, mostly "". Raises NotSent."""
        ...

    async def close(self) -> None: ...


class Chat:
    """Slack's JSON, which Mattermost, Rocket.Chat and others take as well: one message with a line for each alert."""

    name = "chat"
    most = 20

    def __init__(self, url: str, sender: From, tls: ssl.SSLContext | None) -> None:
        self._door = _Door(url, tls)
        self._from = sender

    async def send(self, alerts: Sequence[Alert]) -> str:
        body = msgspec.json.encode({"text": chat_text(alerts, self._from)})
        await self._door.post(body, {"content-type": "application/json"})
        return ""

    async def close(self) -> None:
        await self._door.close()


class Webhook:
    """One alert as JSON, signed as Standard Webhooks 1.0 say: HMAC-SHA256 over `id.timestamp.body`.

    `webhook-id` is the same when a message is sent again; `data.id` is the same for the same trouble.
    """

    name = "webhook"
    most = 1

    def __init__(self, url: str, key: str, sender: From, tls: ssl.SSLContext | None, wall_ns: Callable[[], int]) -> None:
        self._door = _Door(url, tls)
        self._key = signing_key(key)
        self._from = sender
        self._wall_ns = wall_ns

    async def send(self, alerts: Sequence[Alert]) -> str:
        (alert,) = alerts
        body = msgspec.json.encode(webhook_body(alert, self._from))
        now_s = self._wall_ns() // 1_000_000_000
        known_as = f"{alert.id}.{alert.at_ms}"
        headers = {
            "content-type": "application/json",
            "webhook-id": known_as,
            "webhook-timestamp": str(now_s),
            "webhook-signature": signature(self._key, known_as, now_s, body),
        }
        await self._door.post(body, headers)
        return ""

    async def close(self) -> None:
        await self._door.close()


# --- what is sent ---------------------------------------------------------------------------------------------------------------


def chat_text(alerts: Sequence[Alert], sender: From) -> str:
    """`&`, `<` and `>` are escaped: what callers named must not become a link or a call to everybody."""
    lines = []
    for alert in alerts:
        lines.append(f"*{_title(alert)}*: {alert.message}")
        facts = " · ".join(f"{name}: {value}" for name, value in alert.facts.items())
        if facts:
            lines.append(f"      {facts}")
    lines.append(f"_{when(alerts[-1])}, {sender.pod}, {sender.environment}_")
    text = "\n".join(lines)
    if len(text) > _MOST_TEXT:
        text = f"{text[:_MOST_TEXT]}…"
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def webhook_body(alert: Alert, sender: From) -> dict[str, Any]:
    return {
        "type": "alert.over" if alert.is_over else "alert",
        "timestamp": when(alert),
        "data": {
            "id": alert.id,
            "kind": alert.kind,
            "severity": alert.severity,
            "about": alert.about,
            "message": alert.message,
            "facts": alert.facts,
            "pod": sender.pod,
            "environment": sender.environment,
            "version": VERSION,
        },
    }


def signing_key(key: str) -> bytes:
    """As the standard writes it, `whsec_` and base64, or the text as it is."""
    return base64.b64decode(key.removeprefix("whsec_")) if key.startswith("whsec_") else key.encode()


def signature(key: bytes, message_id: str, unix_s: int, body: bytes) -> str:
    signed = hmac.digest(key, f"{message_id}.{unix_s}.".encode() + body, "sha256")
    return f"v1,{base64.b64encode(signed).decode()}"


def when(alert: Alert) -> str:
    return datetime.fromtimestamp(alert.at_ms / 1000, UTC).isoformat(timespec="seconds")


def why(error: OSError) -> str:
    """In the system's words, without the address that asyncio puts there."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or type(error).__name__  # of names that are nobody's


def _title(alert: Alert) -> str:
    return "over" if alert.is_over else alert.severity


# --- how ------------------------------------------------------------------------------------------------------------------------


class _Door:
    """One address over HTTP. The connection is closed after each message: alerts are rare."""

    def __init__(self, url: str, tls: ssl.SSLContext | None) -> None:
        self._url = url
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def post(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Raises NotSent. A redirection is not followed: a secret must not go where it was not meant to."""
        if self._session is None:
            connector = aiohttp.TCPConnector(ssl=self._tls or True, force_close=True)
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=aiohttp.ClientTimeout(total=_ANSWER_S), headers={"user-agent": f"llm-sidecar/{VERSION}"}
            )
        try:
            async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as reply:
                status, wait = reply.status, reply.headers.get("retry-after", "")
        except TimeoutError:
            raise NotSent(f"does not answer within {_ANSWER_S:.0f} s") from None
        except aiohttp.ClientConnectorCertificateError:
            raise NotSent("shows a certificate that is not trusted (alerts.ca_file)") from None
        except aiohttp.ClientConnectorError as error:
            raise NotSent(f"cannot be reached: {why(error.os_error)}") from None
        except aiohttp.ClientError as error:  # its text may hold the address
            raise NotSent(f"cannot be reached: {type(error).__name__}") from None
        if 200 <= status < 300:
            return
        again_s = min(float(wait), _LONGEST_WAIT_S) if wait.isdigit() else 0.0
        raise NotSent(f"answers with HTTP {status}", again_s=again_s, is_final=status in _ITS_FAULT)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None
