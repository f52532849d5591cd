"""How long a provider may be silent: not longer than its limits, and not shorter, whatever else goes on."""

from __future__ import annotations

from math import inf

from tests.sim.seen import GRACE_S

_NEAR_S = 0.1  # two limits so near to each other cannot be told apart by when they end something
_EARLY_S = 0.055  # a limit that was moved nearer is looked at every 50 ms


def _limits_s(one, timeouts):
    """Since when the present silence counts, its limit, and the share of the caller's time that the next candidate leaves."""
    caller = one.caller
    node = caller.call.node

    def limit(name):
        return ((getattr(node, name, None) if node is not None else None) or getattr(timeouts, name)) / 1000

    # All tries of one candidate have one share, which begins with the first of them.
    first_at = next(other.began for other in caller.ones if other.target == one.target)
    share = first_at + (caller.began_at + caller.deadline_s - first_at) * timeouts.first_share - one.began
    asked = {other.target for other in caller.ones if other.began <= one.began}
    if all(candidate.target in asked for candidate in caller.call.candidates):
        share = inf  # nobody is left who would need it
    if caller.call.send is None:
        return one.began, limit("answer_ms"), share
    if one.has_begun:
        strict = caller.call.response_format is not None and caller.call.response_format.strict
        is_held = strict or caller.on_cut == "hold"  # and can still be mended
        whole = one.began + timeouts.stream_ms / 1000 - one.heard_at
        return one.heard_at, min(limit("idle_ms"), whole), share + one.began - one.heard_at if is_held else inf
    first = min(limit("first_token_ms"), limit("stream_ms"))
    return one.began, first if one.has_head else min(first, limit("headers_ms")), share


def too_patient(one, timeouts):
    """It was given up later than it should have been, or never. A sentence, or nothing."""
    since, limit_s, _ = _limits_s(one, timeouts)
    if one.caller.pause_s == 0 and one.ended - since > limit_s + GRACE_S:
        return f"{one.target} was silent for {one.ended - since:.3f} s; it may be for {limit_s} s"
    return None


def too_impatient(one, timeouts):
    """It was given up for its silence before its time was over. A sentence, or nothing."""
    since, limit_s, share_s = _limits_s(one, timeouts)
    waited_s = one.ended - since
    if waited_s < min(limit_s, share_s) - _EARLY_S:
        return f"{one.target} is given up after {waited_s:.3f} s; it had {min(limit_s, share_s):.3f} s"
    return None


def was_hurried(one, timeouts):
    """Was it given up for want of the caller's time, and soon? That is not its fault. None: it cannot be told from here."""
    since, limit_s, share_s = _limits_s(one, timeouts)
    waited_s = one.ended - since
    blame_s = timeouts.blame_ms / 1000
    if share_s > limit_s + _NEAR_S or waited_s > share_s + _NEAR_S:
        return False  # it went on beyond the share: nobody was left to whom that would have gone
    if one.has_begun:
        return True if share_s < limit_s - _NEAR_S else None
    if waited_s > blame_s + _NEAR_S:
        return False
    return True if waited_s < min(limit_s, blame_s) - _NEAR_S else None
