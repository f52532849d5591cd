"""The product is this one function: every call goes through it, unary or streamed, whatever the door."""

from __future__ import annotations

from asyncio import CancelledError, current_task

from sidecar.call import Call
from sidecar.engine import Engine
from sidecar.errors import Cancelled, DeadlineExceeded, InternalError, SidecarError
from sidecar.stages.attempt import attempt
from sidecar.stages.check import check
from sidecar.stages.choose import choose
from sidecar.stages.count import count
from sidecar.stages.identify import identify
from sidecar.stages.recall import again, recall
from sidecar.stages.reserve import reserve
from sidecar.stages.settle import settle
from sidecar.stages.stale import stale
from sidecar.time_limit import TimeLimit


def plan(engine: Engine, call: Call) -> None:
    """The part of the pipeline that only thinks. CountTokens and Explain end here: nothing is called, held or spent."""
    identify(engine, call)
    check(engine, call)
    count(engine, call)
    choose(engine, call)


async def _answer(engine: Engine, call: Call) -> None:
    """Within the call's time; and where every model has failed, with an old answer if that will do."""
    try:
        with TimeLimit(call.deadline):
            if not await recall(engine, call):
                async with engine.admission.place(call):
                    await reserve(engine, call)
                    await attempt(engine, call)
    except (SidecarError, TimeoutError) as error:
        if not await stale(engine, call, error):
            raise


async def run(engine: Engine, call: Call) -> None:
    """Answer one call, or raise why not: a SidecarError, or CancelledError when the caller went away.

    `settle` does not await, so nothing can cut it short; and it runs in the call's own task, after everything below has ended. The
    deadline covers all that waits: queue, tries, pauses between them, streaming.
    """
    try:
        if call.repeat is None or not await again(engine, call, call.repeat):
            plan(engine, call)
            await _answer(engine, call)
    except SidecarError as error:
        call.error = error
        raise
    except TimeoutError:
        call.error = DeadlineExceeded(
            f"the deadline passed after {(call.deadline - call.arrived) * 1000:.0f} ms; the answer takes longer: give the call more time"
        )
        raise call.error from None
    except CancelledError:
        if call.aborted is None:
            call.error = Cancelled("the caller went away")
            raise
        call.error = call.aborted
        task = current_task()
        if task is not None:
            task.uncancel()
        raise call.aborted from None
    except Exception as error:
        call.error = InternalError.of(error, call.id)
        raise call.error from error
    finally:
        settle(engine, call)
