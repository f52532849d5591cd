"""Who can be expected to answer, and whether every node in use has somebody left.

Traffic tells: the last outcomes of each model at each key or region, and its breakers. A check (`policies/health_checks.py`) tells
where there is no traffic. Nothing here asks anybody, and nothing here decides who is asked: that is the breakers' to say.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Literal, Protocol, TypeVar

from msgspec import Struct

from sidecar.call import Call
from sidecar.errors import ProviderContextExceeded, ProviderError, ProviderRejected, RequestError, SchemaViolated, SidecarError
from sidecar.settings import Settings

State = Literal["unknown", "up", "degraded", "down"]
Source = Literal["", "traffic", "check"]

_MOST = 1_000  # nodes, and models: callers choose the names of both
_T = TypeVar("_T")
_TICK_S = 0.5  # while a breaker is open: its time runs out without anybody noticing


class Row(Protocol):
    """One breaker, as far as health asks."""

    @property
    def service(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def forced(self) -> bool: ...


class Told(Protocol):
    """Where changes go: `Meter.event` without its kind."""

    def __call__(self, message: str, level: Literal["info", "warning", "error"], **facts: str) -> None: ...


class Verdict(Struct, frozen=True):
    """How a provider, or one endpoint of it, fares, and how that is known."""

    state: State
    source: Source


class NodeHealth(Struct, frozen=True):
    """One node in use: how many candidates it has, and how many of them may be asked now."""

    name: str
    left: int
    candidates: int


class _Outcomes:
    """When a target last answered, and when it last failed. 0: never."""

    __slots__ = ("bad_ns", "ok_ns")

    def __init__(self) -> None:
        self.ok_ns = 0
        self.bad_ns = 0


class _Node:
    """`targets` are the candidates of its widest call lately, made at `widest_ns`; the last call was at `called_ns`."""

    __slots__ = ("called_ns", "service", "targets", "widest_ns")

    def __init__(self, service: str) -> None:
        self.service = service
        self.targets: frozenset[str] = frozenset()
        self.widest_ns = 0
        self.called_ns = 0


class Health:
    """What is known of providers and nodes. `now_ns` is the engine's monotonic clock throughout.

    A key is `provider` or `provider#endpoint`; a target is a model at a key: `provider/model`, `provider#endpoint/model`.
    """

    def __init__(self, settings: Settings, breakers: Callable[[int], Iterable[Row]], tell: Told) -> None:
        """`breakers` lists those in use at a time; `tell` is told of every change that an operator will want to know of."""
        self._settings = settings
        self._breakers = breakers
        self._tell = tell
        self._window_ns = settings.health.window_ms * 1_000_000
        self._nodes: OrderedDict[str, _Node] = OrderedDict()  # the longest unused first, and so are the next ones
        self._outcomes: OrderedDict[str, _Outcomes] = OrderedDict()
        self._checks: dict[str, tuple[int, str]] = {}  # key → when, and what failed ("": nothing)
        self._exhausted: list[str] = []
        self._woken = asyncio.Event()
        self._changed = asyncio.Event()
        self.notices: dict[str, str] = {}  # what an operator should know now, by whom it concerns

    # --- what it is told ----------------------------------------------------------------------------------------------------------

    def saw(self, call: Call, now_ns: int) -> None:
        """A call has ended. Its attempts tell of their models, its candidates who may answer its node."""
        for tried in call.attempts:
            if (went_well := _OUTCOMES.get(tried.outcome)) is None:
                continue
            found = _latest(self._outcomes, tried.candidate.target, _Outcomes)
            if went_well:
                if found.bad_ns > found.ok_ns:
                    self._woken.set()
                found.ok_ns = now_ns
            else:
                if found.ok_ns >= found.bad_ns:
                    self._woken.set()
                found.bad_ns = now_ns
        # A model that the caller named says nothing about who else could answer the node.
        if call.candidates and not call.request.model:
            self._saw_node(call, now_ns)

    def _saw_node(self, call: Call, now_ns: int) -> None:
        service = call.service
        node = _latest(self._nodes, f"{service}.{call.node_name}" if call.node_name else service, lambda: _Node(service))
        node.called_ns = now_ns
        targets = frozenset(candidate.target for candidate in call.candidates)
        # A call that needs more (an image, a long prompt) narrows its own candidates down, not those of its node's other calls.
        if not targets < node.targets or now_ns - node.widest_ns > self._window_ns:
            node.targets = targets
            node.widest_ns = now_ns

    def checked(self, key: str, problem: str, now_ns: int) -> None:
        """A check of this key has ended; `problem` is "" where it went well."""
        before = self._checks.get(key)
        self._checks[key] = (now_ns, problem)
        if problem and (before is None or not before[1]):
            self._tell(f"the check of {key} failed: {problem}", "warning", key=key, problem=problem)
        elif not problem and before is not None and before[1]:
            self._tell(f"the check of {key} went well again", "info", key=key)
        else:
            return
        self._woken.set()

    def wake(self) -> None:
        """A breaker has changed."""
        self._woken.set()

    # --- what it tells ------------------------------------------------------------------------------------------------------------

    def nodes(self, now_ns: int) -> list[NodeHealth]:
        """The nodes that have been called lately, by name."""
        refusing = {(row.service, row.target) for row in self._breakers(now_ns) if row.state == "open"}
        found = []
        for name, node in self._nodes.items():
            if now_ns - node.called_ns > self._window_ns:
                continue
            service = node.service if node.service in self._settings.services else ""  # as breakers are kept
            shut = sum((service, target) in refusing for target in node.targets)
            found.append(NodeHealth(name, len(node.targets) - shut, len(node.targets)))
        return sorted(found, key=lambda node: node.name)

    def exhausted(self, now_ns: int) -> list[str]:
        """The nodes in use that nobody is left to answer."""
        if all(row.state != "open" for row in self._breakers(now_ns)):
            return []
        return [node.name for node in self.nodes(now_ns) if not node.left]

    def knows_node(self, name: str) -> bool:
        return name in self._nodes

    def of(self, provider: str, endpoint: str, now_ns: int) -> Verdict:
        """One endpoint of a provider; "" is the only one of a provider that has no others."""
        key = f"{provider}#{endpoint}" if endpoint else provider
        traffic, last_ns = self._by_traffic(key, now_ns)
        checked_ns, problem = self._checks.get(key, (-1, ""))
        if checked_ns < 0:
            return Verdict(traffic, "" if traffic == "unknown" else "traffic")
        # That its models can be listed does not mean that they answer; that they cannot be listed is news.
        if traffic == "unknown" or (problem and checked_ns > last_ns):
            return Verdict("down" if problem else "up", "check")
        return Verdict(traffic, "traffic")

    def of_provider(self, provider: str, now_ns: int) -> Verdict:
        """A provider with all its endpoints."""
        settings = self._settings.providers.get(provider)
        endpoints = list(settings.endpoints) if settings is not None else []
        verdicts = [self.of(provider, endpoint, now_ns) for endpoint in endpoints or [""]]
        known = [verdict for verdict in verdicts if verdict.state != "unknown"]
        if not known:
            return Verdict("unknown", "")
        source: Source = "traffic" if any(verdict.source == "traffic" for verdict in known) else "check"
        states = {verdict.state for verdict in known}
        return Verdict(known[0].state if len(states) == 1 else "degraded", source)

    def _by_traffic(self, key: str, now_ns: int) -> tuple[State, int]:
        """The state, and when the last outcome was. Targets count that were asked lately or that a breaker guards."""
        guarded = {row.target for row in self._breakers(now_ns) if row.state != "closed" and not row.forced and _key(row.target) == key}
        broken = len(guarded)
        count, shaky, last_ns = broken, 0, 0
        oldest_ns = now_ns - self._window_ns
        for target, seen in self._outcomes.items():
            if _key(target) != key or max(seen.ok_ns, seen.bad_ns) < oldest_ns:
                continue
            last_ns = max(last_ns, seen.ok_ns, seen.bad_ns)
            if target in guarded:
                continue
            count += 1
            if seen.bad_ns > seen.ok_ns:
                shaky += 1
                broken += not seen.ok_ns or seen.ok_ns < oldest_ns
        if not count:
            return "unknown", 0
        return "down" if broken == count else "degraded" if broken or shaky else "up", last_ns

    # --- changes ------------------------------------------------------------------------------------------------------------------

    async def watch(self, clock_ns: Callable[[], int]) -> None:
        """Tell whenever a node has nobody left, or has somebody again. Sleeps while no breaker is open."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            while self.look(clock_ns()):
                try:
                    async with asyncio.timeout(_TICK_S):
                        await self._woken.wait()
                    self._woken.clear()
                except TimeoutError:
                    pass

    def look(self, now_ns: int) -> bool:
        """Tell what has changed since the last look. Returns whether time alone may change something."""
        exhausted = self.exhausted(now_ns)
        for name in exhausted:
            if name not in self._exhausted:
                self._tell(f"nobody is left to answer {name}: the breakers of all its candidates are open", "error", node=name)
        for name in self._exhausted:
            if name not in exhausted:
                self._tell(f"{name} has somebody to answer it again, or is not called any more", "info", node=name)
        self._exhausted = exhausted
        self.announce()
        return any(row.state == "open" for row in self._breakers(now_ns))

    def announce(self) -> None:
        """Have those who wait for a change look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def change(self, within_s: float) -> None:
        """Wait until something may have changed, at most so long: figures also grow old without anybody's doing."""
        try:
            async with asyncio.timeout(within_s):
                await self._changed.wait()
        except TimeoutError:
            pass


def _outcomes() -> dict[str, bool]:
    """What an attempt's outcome says of the model: it answered (True), it failed (False); others say nothing.

    A refusal of the request is an answer.
    """

    def below(kind: type[SidecarError]) -> Iterable[type[SidecarError]]:
        for child in kind.__subclasses__():
            yield child
            yield from below(child)

    failed = {kind.reason: False for kind in below(ProviderError)}
    answered = (ProviderRejected, ProviderContextExceeded, SchemaViolated, *below(RequestError))
    return failed | {kind.reason: True for kind in answered if hasattr(kind, "reason")} | {"ok": True}


_OUTCOMES = _outcomes()


def _key(target: str) -> str:
    return target.partition("/")[0]


def _latest(kept: OrderedDict[str, _T], name: str, make: Callable[[], _T]) -> _T:
    """The one of that name, made if need be, as the latest used; the longest unused one goes where there are too many."""
    found = kept.get(name)
    if found is None:
        if len(kept) >= _MOST:
            kept.popitem(last=False)
        found = kept[name] = make()
    else:
        kept.move_to_end(name)
    return found
