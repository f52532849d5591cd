"""`sidecar alerts test`: a trial message to everybody whom [alerts] names.

Exit status: 0 all took it, 1 somebody did not, 2 the settings cannot be read or name nobody.
"""

import asyncio
import sys
import time

from sidecar.errors import SettingsError
from sidecar.observe.alerts import trial
from sidecar.observe.receivers import NotSent, Receiver
from sidecar.settings import Settings
from sidecar.upkeep.alerts import receivers


def test(settings: Settings) -> int:
    """Prints a line for each receiver and returns the exit status 0 or 1. Raises SettingsError."""
    found = [receiver for receiver, _, _ in receivers(settings, time.time_ns)]
    if not found:
        expected = "expected alerts.chat_url, alerts.webhook_url or alerts.mail.server"
        raise SettingsError(settings.origin("alerts"), "", f"names nobody to tell, {expected}")
    lines = asyncio.run(_try_all(found))
    sys.stdout.write("".join(f"{name:8}{problem or 'took it'}\n" for name, problem, _ in lines))
    return 0 if all(is_told for _, _, is_told in lines) else 1


async def _try_all(found: list[Receiver]) -> list[tuple[str, str, bool]]:
    return list(await asyncio.gather(*(_try(receiver) for receiver in found)))


async def _try(receiver: Receiver) -> tuple[str, str, bool]:
    """Its name, what was not quite right, and whether it took the message."""
    try:
        problem = await receiver.send([trial(time.time_ns() // 1_000_000)])
        return receiver.name, f"took it; {problem}" if problem else "", True
    except NotSent as error:
        return receiver.name, str(error), False
    finally:
        await receiver.close()
