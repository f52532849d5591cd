"""Alerts by e-mail."""

from __future__ import annotations

import asyncio
import contextlib
import smtplib
import socket
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from threading import Thread
from typing import Final

from sidecar.observe.alerts import ORDER, Alert
from sidecar.observe.receivers import From, NotSent, when, why
from sidecar.settings.alerts import Mail

_ANSWER_S: Final = 10.0  # for one step of the conversation
_WHOLE_S: Final = 30.0
_SUBJECT: Final = 150  # characters


class Mailbox:
    """One letter to all recipients. The standard library's client, which waits, runs in a thread of its own for each."""

    name = "mail"
    most = 50

    def __init__(self, settings: Mail, sender: From, tls: ssl.SSLContext | None) -> None:
        self._settings = settings
        self._from = sender
        self._tls = tls or ssl.create_default_context()

    async def send(self, alerts: Sequence[Alert]) -> str:
        message = letter(alerts, self._from, self._settings)
        try:
            async with asyncio.timeout(_WHOLE_S):
                refused = await self._post(message)
        except TimeoutError:
            raise NotSent(f"does not take a letter within {_WHOLE_S:.0f} s") from None
        return f"{refused} of {len(self._settings.recipients)} recipients were refused" if refused else ""

    async def close(self) -> None:
        pass

    async def _post(self, message: EmailMessage) -> int:
        """How many recipients were refused. A thread that nobody waits for any more is left to its end: it ends with the process."""
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[int] = loop.create_future()

        def tell(refused: int, problem: NotSent | None) -> None:
            if outcome.done():
                return
            if problem is not None:
                outcome.set_exception(problem)
            else:
                outcome.set_result(refused)

        def work() -> None:
            refused, problem = 0, None
            try:
                refused = self._converse(message)
            except NotSent as error:
                problem = error
            except Exception as error:
                problem = _problem(error)
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(tell, refused, problem)

        Thread(target=work, name="mail", daemon=True).start()
        return await outcome

    def _converse(self, message: EmailMessage) -> int:
        settings = self._settings
        host, _, port = settings.server.rpartition(":")
        host = host.strip("[]")
        own = socket.gethostname()  # else the name server is asked for it
        smtp: smtplib.SMTP
        if settings.encryption == "tls":
            smtp = smtplib.SMTP_SSL(host, int(port), own, timeout=_ANSWER_S, context=self._tls)
        else:
            smtp = smtplib.SMTP(host, int(port), own, timeout=_ANSWER_S)
        try:
            if settings.encryption == "starttls":
                smtp.starttls(context=self._tls)
            if settings.password is not None:
                smtp.login(settings.user, settings.password)
            return len(smtp.send_message(message, settings.sender, settings.recipients))
        finally:
            with contextlib.suppress(smtplib.SMTPException, OSError):
                smtp.quit()


def letter(alerts: Sequence[Alert], sender: From, settings: Mail) -> EmailMessage:
    """The worst alert is the subject. `Auto-Submitted` keeps answering machines still (RFC 3834)."""
    worst = max(alerts, key=lambda alert: ORDER[alert.severity])
    more = f" (and {len(alerts) - 1} more)" if len(alerts) > 1 else ""
    title = "over" if worst.is_over else worst.severity
    message = EmailMessage()
    message["Subject"] = f"[llm-sidecar] {title}: {worst.message}"[: _SUBJECT - len(more)] + more
    message["From"] = settings.sender
    message["To"] = ", ".join(settings.recipients)
    message["Date"] = format_datetime(datetime.fromtimestamp(alerts[-1].at_ms / 1000, UTC))
    message["Message-ID"] = f"<{alerts[0].id}.{alerts[-1].at_ms}@{(settings.sender or '').rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content("\n\n".join(_words(alert) for alert in alerts) + f"\n\n-- \n{sender.pod}, {sender.environment}\n")
    return message


def _words(alert: Alert) -> str:
    facts = "".join(f"\n  {name}: {value}" for name, value in alert.facts.items())
    return f"{when(alert)} {'over' if alert.is_over else alert.severity}: {alert.message}{facts}"


def _problem(error: Exception) -> NotSent:
    """In words for operators. The server's own are shown: they come before anything secret was said, or say what was refused."""
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return NotSent("does not offer what alerts.mail asks for: STARTTLS, or a login that it allows")
    if isinstance(error, smtplib.SMTPAuthenticationError):
        return NotSent(f"refuses the user or the password (alerts.mail): {error.smtp_code}")
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return NotSent(f"refuses every recipient: {sorted({code for code, _ in error.recipients.values()})}")
    if isinstance(error, smtplib.SMTPDataError) and error.smtp_code >= 500:
        return NotSent(f"refuses the letter: {error.smtp_code}", is_final=True)
    if isinstance(error, smtplib.SMTPResponseException):
        return NotSent(f"answers with {error.smtp_code}")
    if isinstance(error, ssl.SSLCertVerificationError):
        return NotSent("shows a certificate that is not trusted (alerts.ca_file)")
    if isinstance(error, TimeoutError):
        return NotSent(f"does not answer within {_ANSWER_S:.0f} s")
    if isinstance(error, OSError):
        return NotSent(f"cannot be reached: {why(error)}")
    return NotSent(f"cannot be used: {type(error).__name__}")
