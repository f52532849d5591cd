"""The eyes of the simulation: every question to a provider, every piece sent on, every change of a breaker, held against the rules.

The rules are those of the written policy, said once more and in another way than the code under test says them.
"""

from __future__ import annotations

from collections import Counter
from math import inf

from sidecar.billing import tokens
from sidecar.call import Start
from sidecar.request import EmbedRequest
from tests.sim.breakers import BreakerRules, has_quota
from tests.sim.seen import CURRENT, GRACE_S, Notes, One
from tests.sim.silence import too_impatient, too_patient

GRAIN_S = 0.002  # of timers
MOMENT_S = 1e-5  # ten turns of the loop: in a race the second may be on its way when the caller goes or the first ends

NOT_THIS_MODEL = {"PROVIDER_CONTEXT_EXCEEDED", "PROVIDER_MODEL_UNKNOWN"}


class Watch(Notes):
    """The eyes of one process."""

    def __init__(self, loop, settings):
        super().__init__(loop)
        self._settings = settings
        self.engine = self.dear = self.lengths = None
        self.breakers = BreakerRules(self, settings)
        self.retries = Counter()
        self.turns = Counter()  # how often each provider stood on the list of a call that was let in
        self.asked = Counter()  # questions of each endpoint's model
        self.let_in = Counter()  # calls of each tenant for which somebody was asked

    # --- questions

    def begin(self, target, deed):
        caller = CURRENT.get()
        key, state = self.breakers.key(caller, target), self.breakers.state(caller, target)
        self.numbers += 1
        one = One(self.numbers, caller, target, deed, self.now, self.breakers.epochs[key], state)
        self.note(caller, f"asks {target} ({one.number}, which will do: {deed}; its breaker is {state})")
        self._check_time(one)
        self._check_before(one)
        self.breakers.check(one, key)
        self._check_shares(one)
        self.breakers.check_haste(one)
        caller.ones.append(one)
        self.breakers.flying[key].append(one)
        return one

    def reserved(self, caller, accounts):
        """The call has a reservation: its candidates' providers may be asked."""
        caller.holds += 1
        if caller.call.max_nano_usd > self._settings.limits.call_halt_nano_usd:
            self.broken(caller, f"it could cost {caller.call.max_nano_usd} nano-USD, more than one call may")
        for candidate in caller.call.candidates:
            self.turns[candidate.model.provider] += 1
        for found in (*self.dear.chosen(caller), *self.lengths.held(caller.call)):
            self.broken(caller, found)

    def settled(self, call):
        """It is posted, and reported next."""
        for found in self.dear.ended(call, self.now):
            self.broken(CURRENT.get(), found)
        self.lengths.ended(call)

    def end(self, one):
        one.ended = self.now
        self._ask(too_patient, one)
        self.breakers.flying[self.breakers.key(one.caller, one.target)].remove(one)
        if one.caller.done_at is not None:
            self.broken(one.caller, f"its call had ended, and {one.target} still worked for it")

    def tried(self, caller, tried):
        """The call has written down how a question ended, right after telling the breaker."""
        one = next((o for o in caller.ones if o.target == tried.candidate.target and o.ended is not None and o.outcome is None), None)
        self.note(caller, f"{tried.candidate.target}: {tried.outcome}, {tried.nano_usd} nano-USD")
        if one is None:
            self.broken(caller, f"an attempt at {tried.candidate.target} is on the list, and nobody was asked")
            return
        one.outcome = tried.outcome
        if tried.outcome == "PROVIDER_TIMEOUT":
            self._ask(too_impatient, one)
        if tried.outcome == "ok":
            if not one.is_answer:
                self.broken(caller, f"{one.target} did {one.deed}, which is no answer, and it is taken for one")
            if one.usage is not None and tried.usage != one.usage and one.usage.output_tokens is not None:
                self.broken(caller, f"{one.target} said it used {one.usage}; written down is {tried.usage}")
        self.breakers.count(one, tried.outcome)

    def _ask(self, rule, one):
        found = rule(one, self._settings.timeouts)
        if found:
            self.broken(one.caller, found)

    def _check_time(self, one):
        caller, call = one.caller, one.caller.call
        if self.engine.clock_ns() / 1e9 > call.deadline:
            self.broken(caller, f"{one.target} is asked after the deadline")
        if caller.gone_at is not None and self.now - caller.gone_at > MOMENT_S:
            self.broken(caller, f"{one.target} is asked for a caller who has gone")
        if caller.done_at is not None:
            self.broken(caller, f"{one.target} is asked after the call has ended")

    def _check_before(self, one):
        """What came before in the same call allows this question."""
        caller, call = one.caller, one.caller.call
        most = self._settings.services[call.service].most_attempts if call.service in self._settings.services else 6
        if len(caller.ones) >= most:
            self.broken(caller, f"attempt {len(caller.ones) + 1}, and service {call.service} allows {most}")
        if any(pieces for pieces in caller.segments) and caller.on_cut != "restart":
            self.broken(caller, f"{one.target} is asked after a piece was sent on")
        hedges = call.node is not None and call.node.hedge
        flying = sum(o.ended is None for o in caller.ones) + 1
        if flying > (2 if hedges else 1):
            self.broken(caller, f"{flying} providers are asked at the same time")
        for before in caller.ones:
            if hedges and before.ended is not None and self.now - before.ended <= MOMENT_S:
                continue  # the second of a race was on its way when the first ended
            same = before.target == one.target
            match before.outcome:
                case "ok":
                    self.broken(caller, f"{one.target} is asked, and {before.target} has answered")
                case "PROVIDER_REJECTED" | "INTERRUPTED":
                    self.broken(caller, f"{one.target} is asked after {before.target} ended with {before.outcome}")
                case "PROVIDER_AUTH_FAILED" if before.provider != one.provider or before.endpoint == one.endpoint:
                    self.broken(caller, f"{one.target} is asked after {before.target} refused its key")
                case "PROVIDER_QUOTA_EXHAUSTED" if same:
                    self.broken(caller, f"{one.target} is asked again, and its quota was used up")
                case said if said in NOT_THIS_MODEL and (before.provider, before.model) == (one.provider, one.model):
                    self.broken(caller, f"{one.target} is asked after {before.outcome}, which no other endpoint changes")
                case "PROVIDER_TIMEOUT" if same and self._others_first(call.service) and (untried := self._untried(caller)):
                    self.broken(caller, f"{one.target} timed out and is asked again, and {untried} was never asked")
            waited_s = one.began - before.ended if before.ended is not None else inf
            if same and before.retry_after_ms and waited_s < before.retry_after_ms / 1000 - GRAIN_S:
                self.broken(caller, f"{one.target} asked to wait {before.retry_after_ms} ms, and {waited_s:.3f} s have passed")

    def _others_first(self, service):
        """Nobody has set it otherwise."""
        own = self._settings.services[service].retries if service in self._settings.services else {}
        rows = [own.get("timeout"), own.get("first_token"), self._settings.retries.timeout, self._settings.retries.first_token]
        return all(row is None or row.others_first is not False for row in rows)

    def _untried(self, caller):
        """A candidate that could have been asked all the time of the call, and was not."""
        call = caller.call
        tried = {one.target for one in caller.ones}
        refused = [one for one in caller.ones if one.outcome == "PROVIDER_AUTH_FAILED"]  # then only other keys of that provider are asked
        never = {(one.provider, one.model) for one in caller.ones if one.outcome in NOT_THIS_MODEL}
        for candidate in call.candidates:
            key = self.breakers.key(caller, candidate.target)
            state = self.breakers.state(caller, candidate.target)
            provider, endpoint = candidate.model.provider, candidate.target.partition("/")[0]
            if (
                any(one.provider != provider or one.endpoint == endpoint for one in refused)
                or (candidate.model.provider, candidate.model.name) in never
            ):
                continue
            if (
                candidate.target not in tried
                and self.breakers.is_calm(key, caller)
                and state == "closed"
                and not has_quota(candidate.model)
            ):
                return candidate.target
        return None

    # --- shares

    def _check_shares(self, one):
        """Concurrency, quotas, tenants' limits and the budget of retries."""
        caller, call, settings = one.caller, one.caller.call, self._settings
        service = settings.services.get(call.service)
        if service is not None and service.concurrency:
            busy = {o.caller for many in self.breakers.flying.values() for o in many if o.caller.call.service == call.service} | {caller}
            if len(busy) > service.concurrency:
                self.broken(caller, f"{len(busy)} calls of {call.service} at a time; {service.concurrency} are allowed")
        minutes = self.now / 60
        if not caller.ones:
            self.let_in[call.tenant] += 1
            limit = settings.limits.tenant_requests_per_minute
            if limit is not None and self.let_in[call.tenant] > limit + limit * minutes + 1:
                self.broken(caller, f"call {self.let_in[call.tenant]} of tenant {call.tenant}, which has {limit} a minute")
        self.asked[one.target] += 1
        candidate = next(c for c in call.candidates if c.target == one.target)
        limit = candidate.model.requests_per_minute
        if limit is not None and self.asked[one.target] > limit + limit * minutes + 1:
            self.broken(caller, f"question {self.asked[one.target]} to {one.target}, which has {limit} a minute")
        before = [o for o in caller.ones if o.target == one.target]
        if sum(o.outcome != "HEDGED" for o in before):
            self.retries[one.provider] += 1
            figures = settings.retries
            most = figures.budget_most + figures.budget_percent / 100 * self.turns[one.provider] + figures.budget_per_second * self.now
            if self.retries[one.provider] > most + 1e-6:
                self.broken(caller, f"retry {self.retries[one.provider]} at {one.provider}; its budget is {most:.1f}")

    # --- what callers see

    def sent(self, caller, pieces):
        if isinstance(pieces, Start):
            self.note(caller, f"is sent the start of {pieces.candidate.target}{', again: ' + pieces.restart if pieces.restart else ''}")
            if bool(pieces.restart) != bool(caller.segments):
                self.broken(caller, f"start {len(caller.segments) + 1} says restart {pieces.restart!r}")
            if caller.segments and caller.on_cut != "restart":
                self.broken(caller, "the answer begins a second time, and the caller did not ask for that")
            caller.segments.append([])
            return
        if not caller.segments:
            self.broken(caller, "a piece is sent on before the start")
            caller.segments.append([])
        if caller.done_at is not None:
            self.broken(caller, "a piece is sent on after the end")
        caller.segments[-1] += [chunk for chunk in pieces if chunk.text or chunk.finish]

    def ended(self, caller):
        """The call has ended: all that can be said of one call alone."""
        call = caller.call
        caller.done_at = self.now
        self.note(caller, f"ends: {caller.result}")
        late = self.engine.clock_ns() / 1e9 - call.deadline
        if late > GRACE_S:
            self.broken(caller, f"it ends {late * 1000:.0f} ms after its deadline")
        if caller.gone_at is not None and self.now - caller.gone_at > GRACE_S:
            self.broken(caller, f"it ends {self.now - caller.gone_at:.3f} s after its caller has gone")
        for one in caller.ones:
            if one.ended is None:
                self.broken(caller, f"it ends, and {one.target} still works for it")
            elif one.outcome is None:
                self.broken(caller, f"{one.target} was asked, and is not on the list of attempts")
        if caller.reported != 1:
            self.broken(caller, f"it was reported {caller.reported} times")
        if (call.error is None) != (caller.result == "ok"):
            self.broken(caller, f"the caller is told {caller.result}, and written down is {call.error!r}")
        if call.error is not None and call.error.reason == "INTERNAL" and all(one.deed != "defect" for one in caller.ones):
            self.broken(caller, f"a defect: {call.error.__cause__!r}")
        if call.nano_usd != sum(tried.nano_usd for tried in call.attempts):
            self.broken(caller, "its cost is not the sum of its attempts")
        if caller.ones and caller.holds != 1:
            self.broken(caller, f"somebody is asked, and it holds {caller.holds} reservations")
        spent = (call.nano_usd, tokens(call.usage))
        if caller.spent != spent:
            self.broken(caller, f"posted (nano-USD, tokens) is {caller.posted}, and it used {spent}")
        self._check_answer(caller)

    def _check_answer(self, caller):
        call = caller.call
        texts = ["".join(chunk.text for chunk in pieces) for pieces in caller.segments]
        known = [one for one in caller.ones if one.is_answer]
        if call.recalled is not None:
            known = [
                one
                for other in self.callers
                if other.call is not None and other.call.tenant == call.tenant
                for one in other.ones
                if one.is_answer
            ]
        if caller.result == "ok" and isinstance(call.request, EmbedRequest):
            if not any(one.vectors == call.vectors.vectors for one in known):
                self.broken(caller, "its vectors are nobody's")
            return
        if caller.result == "ok":
            if not any(one.text == call.answer.text and one.finish == call.answer.finish for one in known):
                self.broken(caller, f"it was answered {call.answer.text!r}, {call.answer.finish}, which nobody said in whole")
            if call.send is not None and (not texts or texts[-1] != call.answer.text):
                self.broken(caller, f"it was sent {texts[-1:]}, and the answer is {call.answer.text!r}")
            if any(chunk.finish not in (None, call.answer.finish) for pieces in caller.segments[-1:] for chunk in pieces):
                self.broken(caller, f"the pieces tell of another end than {call.answer.finish}")
            return
        for text in texts:
            if text and not any(one.text.startswith(text) for one in (*caller.ones, *known)):
                self.broken(caller, f"it was sent {text!r}, which nobody said")
        if caller.segments and call.sent is not None and caller.gone_at is None and not call.sent.text.startswith(texts[-1]):
            self.broken(caller, f"it was sent {texts[-1]!r}, and its end tells of {call.sent.text!r}")
        if caller.on_cut == "hold" and caller.segments and caller.gone_at is None and call.error.reason != "DEADLINE_EXCEEDED":
            self.broken(caller, "it was sent a piece of an answer that it wanted whole")
