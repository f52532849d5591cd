"""Whether an answer to a similar question may be given: only where audits have proven that such answers are seldom wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Final, Protocol

from sidecar._core import compare
from sidecar.policies import model_judge
from sidecar.policies.cache_audits import Audits, Namespace, Standing
from sidecar.policies.cache_rules import acceptance
from sidecar.policies.same_answer import FORM, WORDING, same_answer
from sidecar.settings import Settings
from sidecar.settings.caching import NodeCache

if TYPE_CHECKING:
    from sidecar.answer import Answer
    from sidecar.call import Call
    from sidecar.policies.cache_similar import Given, Likely

_NODE: Final = NodeCache()

# Any change of the verifier moves the score of some of these, and what was proven of the old one says nothing of the new.
_PAIRS: Final = (
    ("How do I turn on two-factor authentication?", "How can I enable 2FA for my account?"),
    ("How do I enable alerts?", "How do I disable alerts?"),
    ("When does the branch in Seoul open on Monday?", "What time does the Seoul branch open on Mondays?"),
    ("Cancel my order 4711", "Cancel my order 4712"),
    ("I want to change my address", "Please update the address on my account"),
    ("What is the fee for a transfer abroad?", "How much does an international transfer cost?"),
    ("Which customers have no orders?", "List customers without any order"),
    ("Can I get a refund after thirty days?", "Is a refund possible after 30 days?"),
    ("Show sales by region for last month", "Show last month's sales per region"),
    ("비밀번호를 변경하고 싶어요", "비밀번호 변경은 어떻게 하나요?"),
    ("카드를 해지하고 싶습니다", "카드를 발급하고 싶습니다"),
    ("배송이 언제 도착하나요?", "배송은 언제쯤 도착해요?"),
)


class Model(Protocol):
    """Says whether the fresh answer to a call and a remembered one mean the same."""

    name: str

    def __call__(self, call: Call, fresh: str, remembered: str, tell: Callable[[str | None], None]) -> None:
        """Never waits. `tell` is told, now or later, why they do not, "" if they do, None where nobody could be asked."""


class CacheJudge:
    """The judge of `Similar`. `event` tells operators of a namespace that opens or closes; `audited` hears each outcome by node: `same`, or
    in a word what differed.
    """

    def __init__(self, settings: Settings, random: Callable[[], float], event: Callable[..., None]) -> None:
        rule = settings.cache.audit
        self.audits = Audits(share=rule.share, target=rule.target, confidence=rule.confidence, tell=self._tell)
        self.audited: Callable[[str, str], None] = lambda _node, _outcome: None
        self.model: Model | None = None
        self._settings = settings
        self._random = random
        self._event = event

    def may_give(self, call: Call, likely: Likely) -> bool:
        """False: a provider is asked, because nothing is proven yet or because it is this one's turn to be audited."""
        return self.audits.decide(self.namespace(call, likely), self._random()) == "serve"

    def unproven(self, call: Call, likely: Likely) -> str:
        namespace = self.namespace(call, likely)
        return "" if self.audits.decide(namespace, 1.0) == "serve" else self._figures(self.audits.standing(namespace))

    def refutes(self, call: Call, likely: Likely) -> bool:
        return self.audits.is_alarmed(self.namespace(call, likely))

    def gave(self, call: Call, likely: Likely) -> None:
        self.audits.served(self.namespace(call, likely))

    def asked(self, call: Call, likely: Likely, fresh: Answer, differs: Callable[[], None]) -> None:
        """An audit. `differs` is called, now or later, if the remembered answer does not say the same as the fresh one."""
        rule, remembered = _rule(call), likely.entry.answer()
        namespace = self.namespace(call, likely)
        model = self.model if rule.compare == "auto" else None
        if model is not None and self.audits.is_hopeless(namespace) and self._random() >= self._settings.cache.audit.share:
            return  # by lot, whatever the answers say: a judge is paid
        why = same_answer(fresh, remembered, rule.compare)
        told = partial(self._told, namespace, differs)
        if model is not None and why in WORDING:
            model(call, fresh.text, remembered.text, told)
        else:
            told(why)

    def _told(self, namespace: Namespace, differs: Callable[[], None], why: str | None) -> None:
        """Why they are not the same. None: nobody could say, which counts neither way."""
        self.audited(namespace.node, "not judged" if why is None else why or "same")
        if why is not None:
            self.audits.record(namespace, same=not why)
            if why:
                differs()

    def complain(self, given: Given, rule: NodeCache | None) -> None:
        """A user says that this answer to a similar question is wrong: a failed audit, by the rules of today."""
        service = given.node.partition(".")[0]
        who = given.tenant, given.plan
        namespace = self._namespace(service, given.node, who, rule or _NODE, given.model, (given.prompt_name, given.prompt_version))
        self.audits.complain(namespace)
        self.audited(namespace.node, "complaint")

    def standings(self, node: str) -> list[Standing]:
        return self.audits.standings(node)

    def forget(self, tenant: str) -> None:
        """Everything of this tenant is to be erased."""
        if self._settings.cache.audit.by == "tenant":
            self.audits.forget(tenant)

    def namespace(self, call: Call, likely: Likely) -> Namespace:
        named = likely.entry.named
        node, who = f"{call.service}.{call.node_name}", (call.tenant, call.plan)
        return self._namespace(call.service, node, who, _rule(call), named.model, (named.prompt_name, named.prompt_version))

    def _namespace(self, service: str, node: str, who: tuple[str, str], rule: NodeCache, model: str, prompt: tuple[str, str]) -> Namespace:
        """`who`: tenant and plan; `prompt`: its name and version."""
        audit = self._settings.cache.audit
        judge = f"{self.model.name} {model_judge.FORM}" if self.model is not None and rule.compare == "auto" else ""
        compared = f"{rule.compare}{FORM} {judge}".rstrip()
        return Namespace(
            node,
            who[0] if audit.by == "tenant" else who[1] if audit.by == "plan" else "",
            model,
            *prompt,
            f"{fingerprint()} {acceptance(self._settings, service):g} {compared} {self._settings.cache.embedding}".rstrip(),
        )

    def _tell(self, now: Standing) -> None:
        name = now.namespace
        how = "from now on" if now.is_open else "no longer"
        message = f"similar questions of {name.node} are {how} answered from the cache: {self._figures(now)}"
        facts = {
            "node": name.node,
            "tenants": name.tenants,
            "model": name.model,
            "prompt": name.prompt_name,
            "version": name.prompt_version,
        }
        self._event(message, "info" if now.is_open else "warning", **facts)

    def _figures(self, now: Standing) -> str:
        rule = self._settings.cache.audit
        found = f"{now.failures} of {now.audits} audits failed, so at {rule.confidence:.4g} confidence fewer than {now.bound:.2%} are wrong"
        return f"{found}, and {'of late they fail too often' if now.is_alarmed else f'{rule.target:.2%} is the target'}"


@cache
def fingerprint() -> str:
    """Of the verifier: another one after any change of it that moves a score."""
    verdicts = [(verdict.veto, f"{verdict.score:.12g}") for verdict in (compare(*pair) for pair in _PAIRS)]
    return hashlib.sha256(repr(verdicts).encode()).hexdigest()[:12]


def _rule(call: Call) -> NodeCache:
    return call.node.cache if call.node is not None else _NODE
