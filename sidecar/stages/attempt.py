"""Ask; retry; fall back while nothing has been sent on. The only place that retries."""

from __future__ import annotations

import asyncio
from math import inf

from sidecar.call import Call, Candidate
from sidecar.engine import Engine
from sidecar.errors import InternalError, RateLimited, SidecarError
from sidecar.one_try import NotAsked, Race, Try, may_restart
from sidecar.policies.retries import NEXT, Rule, wait_ms

_LEAST_LEFT_S = 0.01  # an attempt that has less time than this is not begun
_LOOK_S = (0.02, 0.5)  # how soon to look again whether a trial has ended: at first, and at most


async def attempt(engine: Engine, call: Call) -> None:
    """Ask the candidates until one gives a whole answer, within the call's deadline and the table in `policies/retries.py`.

    Writes begun, attempts, served, answer (also a broken one), vectors, first_piece, sent (`one_try` does). Raises the last candidate's
    ProviderError or SchemaViolated; TimeoutError at the deadline. After the first piece was sent on nothing is retried, unless the
    caller or its node chose `on_cut: restart`.
    """
    _require_time(engine, call)  # nobody is asked for a caller whose time is up: a cancellation would come after the question
    turns = [_Turn(candidate) for candidate in call.candidates]
    most = engine.retries.most_attempts(call.service)
    failure: SidecarError | None = None
    waits: list[int | None] = []  # that any candidate asked for: the shortest is told
    while turns and len(call.attempts) < most:
        _put_off(engine, turns)
        await _wait_for(engine, call, turns)
        _require_time(engine, call)
        failed = await _ask(engine, call, turns)
        if not failed:
            return
        if call.sent and not may_restart(call):
            raise failed[-1][1]  # whoever had begun to answer was the last to end
        final: list[tuple[Candidate, Rule]] = []
        for turn, error in failed:
            rule = NEXT if isinstance(error, NotAsked) else engine.retries.rule(call.service, error)
            if rule is None or rule.then == "nobody":
                raise error
            waits.append(error.retry_after_ms)
            failure = failure if failure is not None and isinstance(error, NotAsked) else error  # the last real one is told
            if not _again(engine, call, turn, turns, rule, error):
                final.append((turn.candidate, rule))
                if error.retry_after_ms is None:
                    waits.append(_open_ms(engine, call, turn.candidate))
        for candidate, rule in final:  # last, since what one of a race says may hold for the other one's next try too
            _narrow(candidate, turns, rule)
        _halt(engine, call, turns)
    if failure is None:
        raise InternalError("no candidate was tried")
    failure.retry_after_ms = min((wait for wait in waits if wait is not None), default=None)
    raise failure


def _halt(engine: Engine, call: Call, turns: list[_Turn]) -> None:
    """Tries that were billed count: with another one the call could cost more than any may (`limits.call_halt_usd`)."""
    spent = sum(tried.nano_usd for tried in call.attempts)
    if spent:
        most = engine.settings.limits.call_halt_nano_usd
        turns[:] = [turn for turn in turns if spent + turn.candidate.max_nano_usd <= most]


class _Turn:
    """A candidate waiting for its next try."""

    __slots__ = ("candidate", "is_tried", "looks", "not_before", "opened", "retries", "share_until")

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        self.is_tried = False
        self.opened = False  # by its latest try's failure: the breaker
        self.looks = 0
        self.retries = 0
        self.not_before = 0.0
        self.share_until = 0.0  # in the clock's seconds: what is left then belongs to the others, while one of them is untried


_Failed = tuple[_Turn, SidecarError]


async def _ask(engine: Engine, call: Call, turns: list[_Turn]) -> list[_Failed]:
    """One try of the first candidate or, where the node hedges, a race of the first two; they are taken out.

    Returns who failed and why, in the order of their ends; nobody: there is an answer.
    """
    turn = turns.pop(0)
    after_s = _hedge_after_s(engine, call, turn, turns)
    _begin(engine, call, turn)
    if after_s is not None:
        return await _race(engine, call, turn, turns, after_s)
    one = Try(engine, call, turn.candidate, _until(turn, turns))
    try:
        await one.run()
    except SidecarError as error:
        turn.opened = one.opened
        return [(turn, error)]
    return []


def _begin(engine: Engine, call: Call, turn: _Turn) -> None:
    if turn.is_tried:
        return
    turn.is_tried = True
    now_ns = engine.clock_ns()
    engine.retries.count_call(turn.candidate.model.provider, now_ns)
    now = now_ns / 1e9
    turn.share_until = now + (call.deadline - now) * engine.settings.timeouts.first_share


def _until(turn: _Turn, turns: list[_Turn]) -> float:
    """Until when this candidate's tries and pauses, all together, may last without an answer: an untried one's share is left to it."""
    return turn.share_until if any(not other.is_tried for other in turns) else inf


def _put_off(engine: Engine, turns: list[_Turn]) -> None:
    """Whoever has used up its share, and lost a race since, comes after those who are untried: it would be asked for no time at all."""
    while turns[0].is_tried and _until(turns[0], turns) < engine.clock_ns() / 1e9 + _LEAST_LEFT_S:
        turns.append(turns.pop(0))


def _again(engine: Engine, call: Call, turn: _Turn, turns: list[_Turn], rule: Rule, error: SidecarError) -> bool:
    """Queue another try of the same model, if the table, its breaker, its provider's budget and the deadline allow one."""
    now = engine.clock_ns() / 1e9
    if isinstance(error, NotAsked | RateLimited):
        if turns or not _fits(call, now, pause := _pause_unasked(engine, turn, error)):
            return False
        turn.not_before = now + pause
        turns.append(turn)
        return True
    if turn.retries >= rule.retries:
        return False
    pause = wait_ms(rule, error, turn.retries, engine.random) / 1000
    if not _fits(call, now, pause) or now + pause + _LEAST_LEFT_S > _until(turn, turns):
        return False
    is_open = not _lets_through(engine, call, turn.candidate, pause)
    if is_open and (turns or not turn.opened):
        return False
    if not engine.retries.take(turn.candidate.model.provider, engine.clock_ns()):
        return False
    if is_open:  # nobody else can answer: the retry that the table still allows is the breaker's trial
        engine.breakers.of(call.service, turn.candidate.target).shorten(int((now + pause) * 1e9))
    turn.not_before = now + pause
    turn.retries += 1
    turns.insert(len(turns) if rule.others_first or call.sent else 0, turn)
    return True


def _pause_unasked(engine: Engine, turn: _Turn, error: SidecarError) -> float:
    """How long to wait where nobody was asked and nobody else is left: for the quota, or to see how a trial ends; inf: not at all."""
    if isinstance(error, RateLimited):
        return inf if error.retry_after_ms is None else error.retry_after_ms / 1000
    if error.retry_after_ms is not None:
        return inf  # the breaker is open: an answer now that there is none is worth more than one later
    turn.looks += 1
    return min(_LOOK_S[0] * float(2**turn.looks), _LOOK_S[1]) * (0.5 + engine.random() / 2)


def _fits(call: Call, now: float, pause: float) -> bool:
    return now + pause + _LEAST_LEFT_S < call.deadline


def _lets_through(engine: Engine, call: Call, candidate: Candidate, pause: float) -> bool:
    """Will the breaker give a permit after this pause? Waiting for a try that will not be made would only keep the caller waiting."""
    return bool(engine.breakers.of(call.service, candidate.target).state(engine.clock_ns() + int(pause * 1e9)) != "open")


def _open_ms(engine: Engine, call: Call, candidate: Candidate) -> int | None:
    """How long the breaker that this failure may have opened stays so."""
    now_ns = engine.clock_ns()
    until_ns = engine.breakers.of(call.service, candidate.target).retry_at_ns(now_ns)
    return None if until_ns is None else max(0, until_ns - now_ns) // 1_000_000 + 1


def _narrow(failed: Candidate, turns: list[_Turn], rule: Rule) -> None:
    """Leave only those who may be asked after this failure."""
    model = failed.model
    match rule.then:
        case "other_endpoint":  # a refused key says nothing about another one, but what a caller may use is not to be found out elsewhere
            turns[:] = [t for t in turns if t.candidate.model.provider == model.provider and t.candidate.endpoint != failed.endpoint]
        case "other_model":
            turns[:] = [t for t in turns if (t.candidate.model.provider, t.candidate.model.name) != (model.provider, model.name)]


def _require_time(engine: Engine, call: Call) -> None:
    if engine.clock_ns() / 1e9 + _LEAST_LEFT_S > call.deadline:
        raise TimeoutError


async def _wait_for(engine: Engine, call: Call, turns: list[_Turn]) -> None:
    """Until the next try is due, or no longer worth waiting for: its breaker has opened, and somebody else can be asked."""
    turn = turns[0]
    while (pause := turn.not_before - engine.clock_ns() / 1e9) > 0:
        await asyncio.sleep(min(pause, _LOOK_S[1]))
        if len(turns) > 1 and turn.not_before - engine.clock_ns() / 1e9 > 0 and not _lets_through(engine, call, turn.candidate, 0.0):
            return  # its try will not be made, and the next one's turn comes


# --- hedging --------------------------------------------------------------------------------------------------------------------


def _hedge_after_s(engine: Engine, call: Call, turn: _Turn, turns: list[_Turn]) -> float | None:
    """How long this candidate may be silent before the next one is asked beside it; None: no race."""
    node = call.node
    if node is None or not node.hedge or call.operation == "embed" or turn.retries or not turns or turns[0].is_tried:
        return None
    if len(call.attempts) + 2 > engine.retries.most_attempts(call.service):
        return None
    if node.hedge_after_ms is not None:
        return node.hedge_after_ms / 1000
    return engine.latencies.p95(turn.candidate.target, streaming=call.send is not None)


async def _race(engine: Engine, call: Call, first: _Turn, turns: list[_Turn], after_s: float) -> list[_Failed]:
    """Ask the second candidate too when the first is silent for `after_s`: the first byte wins, the loser is cancelled, both are paid.

    Returns as `_ask` does. A loser keeps its turn.
    """
    race = Race()
    loop = asyncio.get_running_loop()
    entered: dict[asyncio.Task[None], _Turn] = {}

    def enter(turn: _Turn, until: float) -> None:
        one = Try(engine, call, turn.candidate, until, race)
        race.tasks[one] = task = loop.create_task(one.run())
        entered[task] = turn

    enter(first, first.share_until)
    begun = loop.create_task(race.begun.wait())
    try:
        await asyncio.wait({*entered, begun}, timeout=after_s, return_when=asyncio.FIRST_COMPLETED)
        if race.winner is None and not any(task.done() for task in entered):
            second = turns.pop(0)
            _begin(engine, call, second)
            enter(second, _until(second, turns))
        return await _outcome(entered, turns)
    finally:
        for task in (*entered, begun):
            task.cancel()
        await asyncio.gather(*entered, begun, return_exceptions=True)  # their ends are on the call's list before it is settled


async def _outcome(entered: dict[asyncio.Task[None], _Turn], turns: list[_Turn]) -> list[_Failed]:
    failed: list[_Failed] = []
    running = set(entered)
    while running:
        done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if task.cancelled():
                turns.insert(0, entered[task])  # it lost, and may be asked again if the winner fails
                continue
            error = task.exception()
            if error is None:
                return []
            if not isinstance(error, SidecarError):
                raise error
            failed.append((entered[task], error))
    return failed
