"""How often similar questions would be answered wrongly: bounded from audits, and nothing is served before that is proven.

An audit is a would-be hit that a provider was asked for all the same; the fresh answer was compared with the remembered one. For each
namespace (node, class of tenants, and all that decides) X_1, X_2, ... are the outcomes in the order in which they become known, 1: they
differ. For an error rate m the evidence against "it is m or more" after n audits with s failures is

    E(m) = sum over j of  w_j  (r_j m / m)^s  ((1 - r_j m) / (1 - m))^(n - s)            r_j < 1,  w_j sum to 1,

a mixture of likelihood ratios of smaller rates r_j m against m. Each factor's mean, given the past and a chance p of failure, is
p r + (1 - p) (1 - r m) / (1 - m): 1 at p = m, less above. So where p is m or more E(m) is a supermartingale that begins at 1, and by
Ville's inequality (1939) the chance that it *ever* reaches 1/alpha is at most alpha: look after every call, stop when you like. The bound
is the m with E(m) = 1/alpha; E grows with m, so serving while the bound is at or below the target is serving while E(target) >= 1/alpha.
It is the capital of bets of fixed size (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSSB 2024,
with bets (1 - r) / (1 - m)), and a mixture as Robbins's (1970) with points for its prior, so that it is one-sided and exact in floats.

What holds when audits are neither alike nor independent: log of a factor's mean is concave in p, so by Jensen the product of the means is
at most 1 whenever the *average* of the chances so far is the target or more. So with the stated confidence, over a namespace's whole
life, it is never open while the average chance of failure of its audits has been the target or more. Audits are drawn by a coin of their
own from what would be served, so their average is that of what is served.

A long good record must not hide that things have turned bad. So a CUSUM (Page 1954; ratio of four times the target to the target) closes
a namespace as well, until it has come back to 0: closing more often takes nothing from the proof. For the same reason whatever can only
count as a failure does no harm to it: people's complaints, which are no random sample and come in only when they are bad, and answers of
which a judge cannot say whether they are the same. An audit for which no judge could be asked is none; why it could not has nothing to do
with what the answers say.

Pods add up their counts. E needs the sums alone; to a pod the outcomes are a sequence in the order in which it learns of them, so that
its own bound holds as said, for each pod by itself.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from itertools import islice
from math import exp, inf, log
from typing import Final, Literal

from msgspec import Struct

_RATES: Final = (0.0, 0.1, 0.25, 0.5)  # r_j: of the target
_WEIGHTS: Final = (0.4, 0.2, 0.2, 0.2)  # w_j: most for no failure at all, so that 169 audits without one prove 2 % at 95 %
_WORSE: Final = 4  # times the target: what the CUSUM looks for
_HOPELESS: Final = 2_000  # audits: who is not open then has an error rate near the target or above it
MOST: Final = 10_000  # namespaces, about 600 bytes each
_MOST_TOLD: Final = 200  # at a time: a bound takes some 0.1 ms
_ENOUGH: Final = 700.0  # of a logarithm: beyond it is no float
_STEPS: Final = 32  # halvings: to a billionth


class Namespace(Struct, frozen=True, array_like=True, gc=False):
    """What is proven together. Another model, prompt, verifier, threshold or comparison is another namespace, and starts anew.

    `tenants` is a class of them, "" where nobody says; `rules` names verifier, threshold, comparison and embedding model.
    """

    node: str  # service.node
    tenants: str
    model: str  # provider/model that made the remembered answer
    prompt_name: str
    prompt_version: str
    rules: str


class Counts(Struct, frozen=True, array_like=True, gc=False):
    """Audits, and those of them that failed; complaints are in both."""

    audits: int = 0
    failures: int = 0


class Standing(Struct, frozen=True):
    """A namespace as operators see it. `bound` is the upper bound of its error rate at the stated confidence, 0 to 1."""

    namespace: Namespace
    audits: int
    failures: int
    complaints: int  # of this pod
    served: int  # by this pod, since it started
    bound: float
    is_open: bool
    is_alarmed: bool  # closed for failures of late, whatever the bound


class _State:
    __slots__ = ("alarm", "complaints", "drift", "is_open", "others", "own", "served")

    def __init__(self) -> None:
        self.own = Counts()
        self.others = Counts()  # of other pods
        self.complaints = 0
        self.served = 0
        self.drift = 0.0  # the CUSUM
        self.alarm = False
        self.is_open = False


class Kept(Struct, frozen=True, array_like=True, gc=False):
    """What a restart must not forget of a namespace."""

    namespace: Namespace
    own: Counts
    others: Counts
    complaints: int
    drift: float
    alarm: bool


class Evidence:
    """E(rate) of the module's docstring, against "the error rate is `rate` or more"; `rate` lies between 0 and 1."""

    __slots__ = ("_terms",)

    def __init__(self, rate: float) -> None:
        # Of each term: its weight, and by how much a failure and a success add to its logarithm.
        self._terms = tuple(
            (weight, log(r) if r else -inf, log((1 - r * rate) / (1 - rate))) for r, weight in zip(_RATES, _WEIGHTS, strict=True)
        )

    def __call__(self, audits: int, failures: int) -> float:
        good = audits - failures
        if not failures:
            return sum(weight * exp(min(good * up, _ENOUGH)) for weight, _, up in self._terms)
        return sum(weight * exp(min(good * up + failures * down, _ENOUGH)) for weight, down, up in self._terms)


def upper_bound(counts: Counts, confidence: float) -> float:
    """The error rate is below this with the stated confidence, whenever one looks. 1: nothing is known."""
    least = 1 / (1 - confidence)
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        rate = (low + high) / 2
        if not 0 < rate < 1:
            break
        if Evidence(rate)(counts.audits, counts.failures) >= least:
            high = rate
        else:
            low = rate
    return high


class Audits:
    """Pure: no clock, no chance of its own, no I/O. `tell` hears of each namespace that opens or closes, `changed` of each that counted.

    At most `most` namespaces; beyond that the one that was audited the longest ago starts anew when it comes again.
    """

    def __init__(
        self,
        *,
        share: float,
        target: float,
        confidence: float,
        tell: Callable[[Standing], None] = lambda _: None,
        changed: Callable[[Namespace], None] = lambda _: None,
        most: int = MOST,
    ) -> None:
        self._share = share
        self._target = target
        self._confidence = confidence
        self._tell = tell
        self.changed = changed
        self._most = most
        self._least = 1 / (1 - confidence)
        self._least_drift = log(self._least)
        self._evidence = Evidence(target)
        worse = min(_WORSE * target, (1 + target) / 2)
        self._worsens = log(worse / target)
        self._heals = log((1 - worse) / (1 - target))
        self._states: OrderedDict[Namespace, _State] = OrderedDict()
        self.open = 0  # how many of them are

    def __len__(self) -> int:
        return len(self._states)

    def decide(self, namespace: Namespace, random: float) -> Literal["serve", "audit"]:
        """May this would-be hit be served? `random` is uniform in [0, 1) and independent of everything else."""
        state = self._states.get(namespace)
        return "serve" if state is not None and state.is_open and random >= self._share else "audit"

    def is_alarmed(self, namespace: Namespace) -> bool:
        """Of late too many audits have failed, whatever the bound."""
        state = self._states.get(namespace)
        return state is not None and state.alarm

    def is_hopeless(self, namespace: Namespace) -> bool:
        """So many audits have not proven it that each single one says little. Not one that closed for failures of late."""
        state = self._states.get(namespace)
        return state is not None and _sum(state).audits >= _HOPELESS and not self._is_proven(state)

    def served(self, namespace: Namespace) -> None:
        """A hit was served."""
        if (state := self._states.get(namespace)) is not None:
            state.served += 1

    def record(self, namespace: Namespace, *, same: bool) -> None:
        """An audit ended."""
        state = self._state(namespace)
        state.own = Counts(state.own.audits + 1, state.own.failures + (not same))
        self._counted(namespace, state, int(same), int(not same))

    def complain(self, namespace: Namespace) -> None:
        """Of an answer that was served somebody says that it is wrong: a failed audit."""
        state = self._state(namespace)
        state.complaints += 1
        self.record(namespace, same=False)

    def learn(self, namespace: Namespace, others: Counts) -> bool:
        """What all other pods have counted. Returns whether it is news; fewer audits than were known are none: somebody forgot some."""
        state = self._states.get(namespace)
        more = others.audits - state.others.audits if state is not None else 0
        if state is None or more <= 0:
            return False
        failures = max(0, others.failures - state.others.failures)
        state.others = others
        self._counted(namespace, state, max(0, more - failures), failures, is_own=False)
        return True

    def bound(self, namespace: Namespace) -> float:
        state = self._states.get(namespace)
        return 1.0 if state is None else upper_bound(_sum(state), self._confidence)

    def standings(self, node: str = "") -> list[Standing]:
        """Those audited last, the latest first, at most 200; with `node` only its own."""
        found = ((namespace, state) for namespace, state in reversed(self._states.items()) if node in ("", namespace.node))
        return [self._standing(namespace, state) for namespace, state in islice(found, _MOST_TOLD)]

    def standing(self, namespace: Namespace) -> Standing:
        return self._standing(namespace, self._states.get(namespace) or _State())

    def forget(self, tenants: str) -> None:
        """What was proven for this class of tenants starts anew."""
        for namespace in [known for known in self._states if known.tenants == tenants]:
            self.open -= self._states.pop(namespace).is_open
            self.changed(namespace)

    def latest(self, many: int) -> list[Namespace]:
        """Those audited last."""
        return list(islice(reversed(self._states), many))

    def own(self, namespace: Namespace) -> Counts | None:
        """What this pod has counted; None: it knows nothing of it (any more)."""
        state = self._states.get(namespace)
        return None if state is None else state.own

    def kept(self, namespace: Namespace) -> Kept | None:
        state = self._states.get(namespace)
        if state is None:
            return None
        return Kept(namespace, state.own, state.others, state.complaints, state.drift, state.alarm)

    def restore(self, kept: Iterable[Kept]) -> None:
        """From the one audited the longest ago to the latest, before the first call. Nobody is told."""
        for one in kept:
            state = self._state(one.namespace)
            state.own, state.others, state.complaints = one.own, one.others, one.complaints
            state.drift, state.alarm = one.drift, one.alarm
            state.is_open = self._may_open(state)
            self.open += state.is_open

    def _state(self, namespace: Namespace) -> _State:
        state = self._states.get(namespace)
        if state is None:
            state = self._states[namespace] = _State()
            if len(self._states) > self._most:
                _, gone = self._states.popitem(last=False)
                self.open -= gone.is_open
        else:
            self._states.move_to_end(namespace)
        return state

    def _counted(self, namespace: Namespace, state: _State, good: int, bad: int, *, is_own: bool = True) -> None:
        # Good ones first, where their order is not known: that closes sooner.
        state.drift = max(0.0, state.drift + good * self._heals) + bad * self._worsens
        if state.drift >= self._least_drift:
            state.alarm = True
        elif not state.drift:
            state.alarm = False
        was_open, state.is_open = state.is_open, self._may_open(state)
        if is_own:
            self.changed(namespace)
        if was_open is not state.is_open:
            self.open += 1 if state.is_open else -1
            self._tell(self._standing(namespace, state))

    def _may_open(self, state: _State) -> bool:
        return not state.alarm and self._is_proven(state)

    def _is_proven(self, state: _State) -> bool:
        counts = _sum(state)
        return self._evidence(counts.audits, counts.failures) >= self._least

    def _standing(self, namespace: Namespace, state: _State) -> Standing:
        counts = _sum(state)
        bound = upper_bound(counts, self._confidence)
        return Standing(namespace, counts.audits, counts.failures, state.complaints, state.served, bound, state.is_open, state.alarm)


def _sum(state: _State) -> Counts:
    return Counts(state.own.audits + state.others.audits, state.own.failures + state.others.failures)
