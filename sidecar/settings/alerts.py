"""Whom the sidecar tells of trouble by itself: a chat, a program, people by e-mail."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta, Struct

from sidecar.errors import SettingsError
from sidecar.settings.kinds import HOST_PORT
from sidecar.settings.reading import shown

if TYPE_CHECKING:
    from sidecar.settings import Settings

Severity = Literal["info", "warning", "critical"]

HookUrl = Annotated[
    str,
    Meta(
        pattern=r"^https?://[^\s/@?#]+(/[^\s#]*)?\Z", description='a URL like "https://hooks.example.com/T0/B0/x" without user or fragment'
    ),
]
HookKey = Annotated[str, Meta(pattern=r"^[!-~]{16,}\Z", description="a key: 16 or more printable ASCII characters without spaces")]
Password = Annotated[str, Meta(pattern=r"^[ -~]+\Z", description="a password: printable ASCII")]
MailServer = Annotated[str, Meta(pattern=HOST_PORT, description='host:port in quotes, like "smtp.example.com:587"')]
MailAddress = Annotated[
    str, Meta(pattern=r"^[!#-'*+./0-9=?A-Z^_`a-z{|}~-]+@[A-Za-z0-9.-]+\Z", description='an address like "ops@example.com"')
]
_LOOPBACK = re.compile(r"(https?://)?(localhost|127(\.\d{1,3}){3}|\[::1\])([:/].*)?", re.IGNORECASE)


class Mail(Struct, frozen=True):
    """A server that takes e-mail (SMTP) and for whom. `starttls` is never given up: a server that does not offer it gets no alert."""

    server: MailServer = ""  # "": no e-mail
    encryption: Literal["starttls", "tls", "none"] = "starttls"  # mostly ports 587, 465 and 25
    user: str = ""  # "": the server asks for none
    password: Password | None = None
    sender: MailAddress | None = None
    recipients: tuple[MailAddress, ...] = ()
    least: Severity = "warning"

    def __repr__(self) -> str:
        return f"Mail(server={self.server!r}, password={'hidden' if self.password else 'none'})"


class AlertSettings(Struct, frozen=True):
    """Whom to tell. The addresses of webhooks are secrets: whoever has one can write there.

    `least` is the least severity that a receiver hears of; `info` is that a trouble is over. `webhook_key` signs, as Standard Webhooks say.
    """

    chat_url: HookUrl | None = None  # takes Slack's JSON, as Mattermost and others do too
    chat_least: Severity = "warning"
    webhook_url: HookUrl | None = None
    webhook_key: HookKey | None = None
    webhook_least: Severity = "warning"
    mail: Mail = Mail()
    ca_file: str = ""  # of receivers with certificates of an authority of one's own; "": the system's
    quiet_ms: Annotated[int, Meta(ge=1_000, le=604_800_000)] = 3_600_000  # what has no window is told again after this at the earliest

    @property
    def is_on(self) -> bool:
        return bool(self.chat_url or self.webhook_url or self.mail.server)

    def __repr__(self) -> str:
        told = [name for name in ("chat_url", "webhook_url", "webhook_key") if getattr(self, name)]
        return f"AlertSettings(hidden={told}, mail={self.mail!r})"


def check_alerts(settings: Settings) -> None:
    """What single values cannot show. Raises SettingsError for the first mistake found."""
    alerts = settings.alerts
    if (alerts.webhook_url is None) != (alerts.webhook_key is None):
        lacking = "webhook_url" if alerts.webhook_url is None else "webhook_key"
        expected = (
            "the address that is signed for" if lacking == "webhook_url" else "the key that signs, so that receivers can tell who writes"
        )
        raise SettingsError(settings.origin("alerts", lacking), "", f"is missing, expected {expected}")
    if alerts.webhook_key is not None and alerts.webhook_key.startswith("whsec_"):
        try:
            base64.b64decode(alerts.webhook_key.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            expected = "expected base64 after whsec_, or a key that does not begin so"
            raise SettingsError(settings.origin("alerts", "webhook_key"), "", f"found (hidden), {expected}") from None
    _mail(settings, alerts.mail)


def _mail(settings: Settings, mail: Mail) -> None:
    def mistake(field: str, problem: str) -> SettingsError:
        return SettingsError(settings.origin("alerts", "mail", field), "", problem)

    if not mail.server:
        given = next((name for name in ("user", "password", "sender", "recipients") if getattr(mail, name)), "")
        if given:
            raise mistake("server", f'is missing beside alerts.mail.{given}, expected host:port in quotes, like "smtp.example.com:587"')
        return
    port = int(mail.server.rpartition(":")[2])
    if not 1 <= port <= 65535:
        raise mistake("server", f"found port {port}, expected one from 1 to 65535")
    if mail.sender is None:
        raise mistake("sender", 'is missing, expected an address like "sidecar@example.com"')
    if not mail.recipients:
        raise mistake("recipients", 'is missing, expected a list of addresses like ["ops@example.com"]')
    if bool(mail.user) != (mail.password is not None):
        lacking, given = ("password", "user") if mail.user else ("user", "password")
        raise mistake(lacking, f"is missing, expected one beside alerts.mail.{given}")
    if mail.password is not None and mail.encryption == "none" and not _LOOPBACK.fullmatch(mail.server):
        problem = (
            f'found "none" with a password for {shown(mail.server)}, expected starttls or tls: it would go over the network unencrypted'
        )
        raise mistake("encryption", problem)


def open_alerts(settings: Settings) -> Iterator[str]:
    """A line for each receiver to whom alerts go unencrypted over the network."""
    alerts = settings.alerts
    for name, url in (("chat_url", alerts.chat_url), ("webhook_url", alerts.webhook_url)):
        if url is not None and url.startswith("http://") and not _LOOPBACK.fullmatch(url):
            yield f"{settings.origin('alerts', name)}: alerts go over the network unencrypted, and so does this address: use https://"
    if alerts.mail.server and alerts.mail.encryption == "none" and not _LOOPBACK.fullmatch(alerts.mail.server):
        yield f"{settings.origin('alerts', 'mail', 'encryption')}: alerts go over the network unencrypted: use starttls or tls"
