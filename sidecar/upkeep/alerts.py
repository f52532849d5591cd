"""Alerts from settings to their end: who is told, what is remembered, and that none of it is on a call's path."""

from __future__ import annotations

import asyncio
import socket
import ssl
import uuid
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge

from sidecar.catalog.pricing import unpriced
from sidecar.engine import Engine
from sidecar.errors import SettingsError
from sidecar.settings import Settings

if TYPE_CHECKING:
    from sidecar.observe import Event
    from sidecar.observe.alerting import Alerting, Lane
    from sidecar.observe.receivers import Receiver
    from sidecar.settings.alerts import Severity


class Alerts:
    """What is sent beside the calls; without [alerts] nothing."""

    def __init__(self, engine: Engine, alerting: Alerting | None = None) -> None:
        self._log = engine.meter.log
        self._alerting = alerting
        self._task = asyncio.create_task(self._run(alerting)) if alerting is not None else None

    async def _run(self, alerting: Alerting) -> None:
        try:
            await alerting.run()
        except Exception as error:
            self._log.defect("alerts", error)

    async def close(self, within_s: float) -> None:
        """Send what is still to be sent, for so long at most, and end. What is left is for the next process, or lost."""
        if self._alerting is None or self._task is None:
            return
        await self._alerting.finish(within_s)
        self._task.cancel()
        await asyncio.wait([self._task])
        for name, count in (await self._alerting.end()).items():
            self._log.write("error", "alerts were not sent", receiver=name, count=count)


async def connect_alerts(engine: Engine) -> Alerts:
    """Have the events of this engine sent to whom settings name. Nothing is said over the network before there is something to tell.

    Raises SettingsError for [redis], its missing package or alerts.ca_file, StoreFailed for server.data_dir.
    """
    settings = engine.settings
    if not settings.alerts.is_on:
        return Alerts(engine)
    from sidecar.observe.alerting import Alerting, Lane
    from sidecar.observe.alerts import Judge, unpriced_alerts
    from sidecar.store.redis_server import client_of
    from sidecar.store.told import Told

    pod = socket.gethostname()
    client = await client_of(settings) if settings.redis.url is not None else None
    memory = Told(client, settings.redis.prefix, f"{pod[:200]}-{uuid.uuid4().hex[:12]}")
    if settings.server.data_dir is not None:
        memory.open(Path(settings.server.data_dir))
    registry = engine.meter.metrics.registry
    counted = Counter("llm_alerts_total", "Alerts by outcome; failed: tries.", ["receiver", "outcome"], registry=registry)
    waiting = Gauge("llm_alerts_waiting", "Alerts that are still to be sent.", ["receiver"], registry=registry)

    def tell(name: str, problem: str) -> None:
        told = problem and f"alerts by {name}: {problem}"
        engine.trouble(f"alerts {name}", told, f"alerts by {name} arrive again", "alerts", receiver=name)

    lanes = [
        Lane(
            receiver,
            key,
            least,
            memory,
            clock_ns=engine.clock_ns,
            wall_ns=engine.wall_ns,
            random=engine.random,
            count=lambda name, outcome, many: counted.labels(name, outcome).inc(many),
            tell=tell,
        )
        for receiver, key, least in receivers(settings, engine.wall_ns)
    ]
    for lane in lanes:
        waiting.labels(lane.name).set_function(partial(_waiting, lane))
    alerting = Alerting(Judge(settings, pod, engine.wall_ns), lanes, memory)

    def event(happened: Event) -> None:
        try:
            alerting.event(happened)
        except Exception as error:  # whoever tells of an event may be in the middle of a call
            engine.meter.log.defect("alerts", error)

    engine.meter.on_event.append(event)
    for alert in unpriced_alerts(unpriced(engine.catalog), engine.wall_ns() // 1_000_000):
        alerting.add(alert)
    return Alerts(engine, alerting)


def _waiting(lane: Lane) -> float:
    return float(lane.waiting)


def receivers(settings: Settings, wall_ns: Callable[[], int]) -> list[tuple[Receiver, str, Severity]]:
    """Each with a name that is the same in all pods and tells nobody its address, and the least severity that it hears of.

    Raises SettingsError for alerts.ca_file.
    """
    from sidecar.observe.receivers import Chat, From, Webhook

    alerts, sender = settings.alerts, From(socket.gethostname(), settings.profile.name)
    tls = _tls(settings)
    found: list[tuple[Receiver, str, Severity]] = []
    if alerts.chat_url is not None:
        found.append((Chat(alerts.chat_url, sender, tls), _key("chat", alerts.chat_url), alerts.chat_least))
    if alerts.webhook_url is not None and alerts.webhook_key is not None:
        webhook = Webhook(alerts.webhook_url, alerts.webhook_key, sender, tls, wall_ns)
        found.append((webhook, _key("webhook", alerts.webhook_url), alerts.webhook_least))
    mail = alerts.mail
    if mail.server:
        from sidecar.observe.mail import Mailbox  # the standard library's e-mail is 4 MB that others do without

        found.append((Mailbox(mail, sender, tls), _key("mail", f"{mail.server} {sorted(mail.recipients)}"), mail.least))
    return found


def _key(name: str, address: str) -> str:
    return f"{name}-{sha256(address.encode()).hexdigest()[:8]}"


def _tls(settings: Settings) -> ssl.SSLContext | None:
    """None: as the system has it."""
    path = settings.alerts.ca_file
    if not path:
        return None
    try:
        return ssl.create_default_context(cafile=path)
    except OSError as error:  # ssl.SSLError is one
        problem = f"cannot read certificates from {path}: {error.strerror or error}"
        raise SettingsError(settings.origin("alerts", "ca_file"), "", problem) from None
