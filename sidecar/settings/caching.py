"""The cache: what is remembered of answers, for how long, for whom and where. `[cache]`, and `[nodes.SERVICE.NODE.cache]` of one node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta, Struct

from sidecar.errors import SettingsError

if TYPE_CHECKING:
    from sidecar.settings import Settings

Life = Annotated[int, Meta(ge=1, le=31 * 86_400_000)]  # milliseconds, up to 31 days
Room = Annotated[int, Meta(ge=65_536, le=8_589_934_592)]  # bytes
Share = Annotated[float, Meta(ge=0, le=1)]
Secret = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z", description="a key of 64 hex digits: openssl rand -hex 32")]


class AuditSettings(Struct, frozen=True):
    """How it is proven that answers to similar questions are seldom wrong: `[cache.audit]`.

    A similar answer is given only where it is proven, at this confidence, that fewer than `target` of them are wrong; see
    `policies/cache_audits.py`. What is proven holds for one node and `by` a plan's tenants together, each tenant alone, or all of them.

    Wrong is what does not say the same as a fresh answer: word by word (JSON by value, code but for white space) or, with a `judge`, to
    that model, which is told the question and both answers. Its calls are paid by the audited call's tenant, service and node; the usage
    log has them as prompt `cache-audit`. Where 2,000 audits have opened nothing it is asked about no more than a `share`. A judge's own
    errors come on top: where it takes a share m of wrong answers for right, fewer than `target` / (1 - m) are wrong (`python -m
    tests.tools.judge_pairs` measures it).
    """

    share: Annotated[float, Meta(ge=0.01, le=1)] = 0.03  # of the similar answers that may be given: a provider is asked all the same
    target: Annotated[float, Meta(ge=0.001, le=0.5)] = 0.02
    confidence: Annotated[float, Meta(ge=0.5, le=0.9999)] = 0.95
    by: Literal["plan", "tenant", "all"] = "plan"
    judge: str = ""  # a model that says whether two answers mean the same where their words differ, on nodes that compare as `auto`


class CacheSettings(Struct, frozen=True):
    """The whole deployment's cache. Nothing is remembered for calls that neither themselves nor by their node ask for it.

    What is kept in a file (`persist`, in server.data_dir) or in the Redis of [redis] (`shared`) is encrypted with `key`. A change of
    `version` makes all that was remembered before unknown.
    """

    max_bytes: Room = 16 * 1024 * 1024  # of memory, for answers
    embeddings_max_bytes: Room = 8 * 1024 * 1024  # of memory, for vectors
    ttl_ms: Life = 3_600_000  # how long an answer may be given again
    time_words_ttl_ms: Life = 60_000  # the same, where the question says "today", "now", "latest" or the like
    stale_ms: Life = 86_400_000  # how much longer it is kept for nodes that take an old answer when every model fails
    max_temperature: Annotated[float, Meta(ge=0, le=2)] = 0.5  # above it only calls that ask for it themselves; not set counts as 1
    replay_chars: Annotated[int, Meta(ge=1, le=1_000_000)] = 200  # about so many in each piece of a stream that is answered from here
    replay_pause_ms: Annotated[int, Meta(ge=0, le=10_000)] = 0  # after each of them
    persist: bool = False
    shared: bool = False
    read_ms: Annotated[int, Meta(ge=1, le=1_000)] = 5  # what Redis may take to answer; then nothing is known
    key: Secret | None = None
    version: str = ""
    embedding: str = ""  # a model that makes vectors of questions, so that more similar ones are found; "": by letters and words alone
    embedding_ms: Annotated[int, Meta(ge=1, le=60_000)] = 1_000  # how long a call waits for its vector, which it pays for
    stale_acceptance: Share = 0.98  # least score of a similar answer when every model fails
    audit: AuditSettings = AuditSettings()

    def __repr__(self) -> str:
        where = f"persist={self.persist}, shared={self.shared}, key={'hidden' if self.key else 'none'}"
        return f"CacheSettings(max_bytes={self.max_bytes}, ttl_ms={self.ttl_ms}, {where})"


class NodeCache(Struct, frozen=True):
    """One node's cache.

    `mode` is for calls that do not say themselves. `scope`: whose questions may be answered with one another's answers, never across
    tenants; with `user` nothing is remembered of calls that name none. `semantic`: answers to similar questions; `shadow` decides and
    counts, and gives none. `compare`: when a remembered and a fresh answer say the same: word by word or to `cache.audit.judge` (`auto`),
    or but for white space (`exact`, for code such as SQL); see `policies/same_answer.py`.
    """

    mode: Literal["off", "default"] = "off"
    scope: Literal["user", "tenant"] = "tenant"
    ttl_ms: Life | None = None  # None: cache.ttl_ms
    tool_calls: bool = False  # remember answers that call tools too
    stale: bool = False  # when every model fails, an old answer is better than none
    semantic: Literal["off", "shadow", "on"] = "off"
    compare: Literal["auto", "exact"] = "auto"


def check_cache(settings: Settings) -> None:
    """Raises SettingsError for the first mistake between keys."""
    cache = settings.cache
    needs = {
        "persist": (settings.server.data_dir is not None, "server.data_dir to be set: the answers are kept there"),
        "shared": (settings.redis.url is not None, "redis.url to be set: the answers are kept there"),
    }
    for field, (is_there, expected) in needs.items():
        if not getattr(cache, field):
            continue
        if not is_there:
            raise SettingsError(settings.origin("cache", field), "", f"found true, expected {expected}")
        if cache.key is None:
            problem = f"is missing, expected a key of 64 hex digits (openssl rand -hex 32): with cache.{field} answers leave this process"
            raise SettingsError(settings.origin("cache", "key"), "", problem)
