"""`sidecar cache`: why two questions are or are not the same, what a running sidecar would do with one, and taking answers back.

Exit status: 0, or 1: the questions are not the same (`try`), or it failed.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_SELECTORS = {
    "tenant": "of this tenant",
    "user": "of this user; with --tenant",
    "service": "to calls of this service",
    "node": "to calls of this node, as SERVICE.NODE",
    "model": "by this model",
    "prompt_name": "to prompts of this name",
    "prompt_version": "to prompts of this version",
    "call_id": "that this call made",
}


def add_parser(commands: Any) -> None:
    """Its arguments, for `sidecar.cli`."""
    cache = commands.add_parser("cache", help="try whether two questions are the same; look into a sidecar's cache; take answers back")
    actions = cache.add_subparsers(dest="action", required=True, metavar="ACTION")
    attempt = actions.add_parser("try", help="print why two questions are or are not the same; no sidecar is needed")
    attempt.add_argument("asked")
    attempt.add_argument("stored")
    attempt.add_argument("--acceptance", type=float, default=0.95, help="least score of the same question (default: %(default)s)")
    look = actions.add_parser("lookup", help="what a running sidecar would do with a question")
    look.add_argument("prompt")
    for name in ("tenant", "user", "node", "model", "system"):
        look.add_argument(f"--{name}", default="")
    gone = actions.add_parser("invalidate", help="take remembered answers back, on all pods; all that is given must fit")
    for name, meaning in _SELECTORS.items():
        gone.add_argument(f"--{name.replace('_', '-')}", default="", help=meaning)
    gone.add_argument("--older-than", type=_age, metavar="AGE", help="like 90s, 30m, 12h or 7d")
    gone.add_argument("--everything", action="store_true")
    proofs = actions.add_parser("proofs", help="what audits have proven of answers to similar questions, and so whether they are given")
    proofs.add_argument("--node", default="", metavar="SERVICE.NODE")
    for parser in (look, gone, proofs):
        parser.add_argument("--target", default="127.0.0.1:50051", metavar="ADDRESS", help="host:port or unix:/path (default: %(default)s)")


def _age(text: str) -> timedelta:
    try:
        return timedelta(seconds=float(text[:-1]) * _SECONDS[text[-1:]])
    except (KeyError, ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no age; expected a number with s, m, h or d, like 12h") from None


def cache(arguments: argparse.Namespace) -> int:
    """Runs one of the actions. A token is in LLM_TOKEN, as for `sidecar ask`."""
    if arguments.action == "try":
        return attempt(arguments.asked, arguments.stored, arguments.acceptance)
    if arguments.action == "lookup":
        return _asked(arguments.target, lambda stub, token: _look_up(stub, token, arguments))
    if arguments.action == "proofs":
        return _asked(arguments.target, lambda stub, token: _proofs(stub, token, arguments.node))
    return _asked(arguments.target, lambda stub, token: _invalidate(stub, token, arguments))


def attempt(asked: str, stored: str, acceptance: float) -> int:
    """Prints the verdict on two questions. 0: they are the same."""
    from sidecar._core import compare

    verdict = compare(asked, stored)
    is_same = not verdict.veto and verdict.score >= acceptance
    lines = [f"{'the same' if is_same else 'not the same'}: score {verdict.score:.4f}, at least {acceptance:g} is needed"]
    if verdict.veto:
        lines.append(f"veto: {verdict.veto}")
    lines += [f"  {one}" for one in verdict.deciding]
    lines += [f"  {name:24} {value:g}" for name, value in verdict.features.items() if value and not math.isnan(value)]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0 if is_same else 1


def _asked(target: str, ask: Callable[[Any, Any], list[str]]) -> int:
    import grpc

    from sidecar.commands.ask import told
    from sidecar.v1.ops_pb2_grpc import OpsServiceStub

    token = os.environ.get("LLM_TOKEN")
    with grpc.insecure_channel(target) as channel:
        try:
            lines = ask(OpsServiceStub(channel), (("authorization", f"Bearer {token}"),) if token else ())
        except grpc.RpcError as error:
            sys.stderr.write(f"sidecar cache: {told(error, target)}\n")
            return 1
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


def _look_up(stub: Any, token: Any, arguments: argparse.Namespace) -> list[str]:
    from sidecar.v1.cache_pb2 import CacheLookupRequest
    from sidecar.v1.llm_pb2 import CachePolicy, Caller, GenerateRequest

    caller = Caller(tenant=arguments.tenant, user=arguments.user, node=arguments.node)
    policy = None if arguments.node else CachePolicy(mode=CachePolicy.MODE_DEFAULT)
    request = GenerateRequest(caller=caller, prompt=arguments.prompt, system=arguments.system, model=arguments.model, cache=policy)
    found = stub.CacheLookup(CacheLookupRequest(generate=request), metadata=token)
    lines = [f"{found.decision}: {found.why}"]
    exact = [found.exact] if found.HasField("exact") else []
    for one in (*exact, *found.candidates):
        veto = f", veto {one.veto}" if one.veto else ""
        age = f"{one.age.ToMilliseconds() / 1000:.0f} s old{'' if one.fresh else ', its life is over'}"
        lines.append(f"  call {one.source_call_id} by {one.model}, {age}: similarity {one.similarity:.3f}, score {one.score:.4f}{veto}")
        lines += [f"    {text}" for text in one.deciding]
    return lines


def _invalidate(stub: Any, token: Any, arguments: argparse.Namespace) -> list[str]:
    from sidecar.v1.cache_pb2 import InvalidateCacheRequest

    request = InvalidateCacheRequest(everything=arguments.everything, **{name: getattr(arguments, name) for name in _SELECTORS})
    if arguments.older_than is not None:
        request.older_than.FromTimedelta(arguments.older_than)
    found = stub.InvalidateCache(request, metadata=token)
    gone = f"gone: {found.memory} answers and {found.vectors} vectors in memory, {found.file} answers in the file, {found.redis} in Redis"
    return [gone, *(f"but: {problem}" for problem in found.problems)]


def _proofs(stub: Any, token: Any, node: str) -> list[str]:
    from sidecar.v1.cache_pb2 import ListCacheProofsRequest

    found = stub.ListCacheProofs(ListCacheProofsRequest(node=node), metadata=token)
    lines = [
        f"given where fewer than {found.target:.2%} are wrong at {found.confidence:.4g} confidence; of these {found.share:.1%} are audited"
    ]
    for one in found.proofs:
        state = "open" if one.open else "closed: audits fail too often of late" if one.alarmed else "closed"
        whose = " ".join(part for part in (one.node, one.tenants, one.model, one.prompt_name, one.prompt_version) if part)
        figures = f"{one.failures} of {one.audits} audits failed ({one.complaints} complaints), fewer than {one.bound:.2%} are wrong"
        lines.append(f"  {whose}: {state}; {figures}; given {one.served} times")
    return lines
