"""The Rust extension: what a call needs to be fast and exact. No clock inside: time comes in as `now_ns`.

A denial is a value, misuse is an exception: TypeError for the wrong type, ValueError for the wrong value, KeyError for what never
existed; the message names the argument, what was found and what is expected. `stubtest` holds this file against the binary.
"""

from collections.abc import Iterable, Sequence
from os import PathLike
from typing import Literal, final

from typing_extensions import Buffer

__all__ = [
    "Balance",
    "Breaker",
    "Candidate",
    "Denial",
    "Exceeded",
    "JournalReport",
    "JournalStatus",
    "Ledger",
    "Limiter",
    "Posting",
    "PromptIndex",
    "Refusal",
    "Reservation",
    "Rule",
    "SimilarityIndex",
    "TokenCounter",
    "Verdict",
    "check_journal",
    "compare",
    "repair_journal",
]

# --- ledger ---------------------------------------------------------------------------------------------------------------------

@final
class Rule:
    """A limit as settings give it, and the window it holds for; None is no limit. ValueError for a number out of range or an unknown mode.

    `window` is (start_ns, end_ns), from the start to before the end; None is one window for ever. Where days and months begin is a matter
    of calendars and time zones, so whoever knows those says it: see `policies/windows.py`. At `warn_percent` (1 to 100) of either limit a
    warning is given, once per window. At the limit, mode "refuse" denies, "warn" lets through, "shadow" lets through and does not warn;
    all three count it.

    Where processes share the limit, a lease is what this one may use of it, used and pending together, whatever was topped up; in mode
    "refuse" a reservation that does not fit into it is denied. It holds for the one `reserve` that it is given with.
    """

    def __new__(
        cls,
        *,
        limit_nano_usd: int | None = None,
        limit_tokens: int | None = None,
        window: tuple[int, int] | None = None,
        warn_percent: int = 80,
        mode: Literal["refuse", "warn", "shadow"] = "refuse",
        lease_nano_usd: int | None = None,
        lease_tokens: int | None = None,
    ) -> Rule: ...
    @property
    def limit_nano_usd(self) -> int | None: ...
    @property
    def limit_tokens(self) -> int | None: ...
    @property
    def lease_nano_usd(self) -> int | None: ...
    @property
    def lease_tokens(self) -> int | None: ...
    @property
    def window(self) -> tuple[int, int] | None: ...
    @property
    def warn_percent(self) -> int: ...
    @property
    def mode(self) -> Literal["refuse", "warn", "shadow"]: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Reservation:
    """A hold on every account asked for, to be posted or voided by its id."""

    @property
    def id(self) -> int: ...
    @property
    def warnings(self) -> list[str]:
        """Accounts that reached their warning threshold with this reservation, the first time in their window."""

@final
class Denial:
    """Nothing was held: the first account, in the order asked, in which the amount did not fit.

    Of an account that is frozen or closed the sums are those of its money; a limit that it does not have is 0. For "lease" the limit is
    the lease, and the account does not count it as refused.
    """

    @property
    def account(self) -> str: ...
    @property
    def reason(self) -> Literal["limit", "lease", "frozen", "closed"]: ...
    @property
    def unit(self) -> Literal["nano_usd", "tokens"]: ...
    @property
    def limit(self) -> int: ...
    @property
    def used(self) -> int: ...
    @property
    def pending(self) -> int: ...
    @property
    def asked(self) -> int: ...
    @property
    def resets_at_ns(self) -> int | None:
        """When the account's window ends, Unix time; None for an account without windows."""

@final
class Posting:
    """What a post did. It is always in full; what went beyond the reservation is the overrun."""

    @property
    def overrun_nano_usd(self) -> int: ...
    @property
    def overrun_tokens(self) -> int: ...
    @property
    def late(self) -> bool:
        """At or after the end of the reservation's time: what it held may have been given to others since."""
    @property
    def warnings(self) -> list[str]:
        """As of a reservation; of windows that have passed there are none."""

@final
class Balance:
    """One account in one window. The limits include what was topped up."""

    @property
    def used_nano_usd(self) -> int: ...
    @property
    def used_tokens(self) -> int: ...
    @property
    def pending_nano_usd(self) -> int: ...
    @property
    def pending_tokens(self) -> int: ...
    @property
    def limit_nano_usd(self) -> int | None: ...
    @property
    def limit_tokens(self) -> int | None: ...
    @property
    def topped_up_nano_usd(self) -> int: ...
    @property
    def topped_up_tokens(self) -> int: ...
    @property
    def resets_at_ns(self) -> int | None: ...
    @property
    def overruns(self) -> int:
        """How many posts went above their reservation."""
    @property
    def refusals(self) -> int:
        """How often it refused or, in modes "warn" and "shadow", would have."""
    @property
    def frozen(self) -> bool: ...

@final
class Ledger:
    """Budgets: hold the most a call can cost on all of its accounts, or on none; then post what it did cost, once.

    `now_ns` is the Unix clock. Amounts are 0 to 2**63 - 1; ValueError beyond that, also for a sum, and then nothing has changed.
    KeyError for a reservation that never existed, ValueError for one that is already posted or voided, with its id and state.
    Accounts that no call is using are packed: a million of them are about 120 MiB.
    """

    def __new__(cls) -> Ledger:
        """Kept in memory only."""
    @staticmethod
    def open(
        path: str | PathLike[str],
        *,
        fsync: Literal["settle", "interval", "never"] = "settle",
        interval_ms: int = 100,
        most_waiting_bytes: int = 67108864,
        segment_bytes: int = 67108864,
    ) -> tuple[Ledger, list[str]]:
        """Give the ledger whose journal is in the folder `path`, and what an operator should know of how it was found.

        All that was posted before is there again, what was pending is not, and reservations count from 1. From now on whatever changes
        accounts for good is handed to the journal: in memory that outlives the process, so a kill loses nothing; a thread writes and syncs
        it, as `fsync` says. ValueError with file and byte if the journal is damaged, OSError if it cannot be read or made, or is in use.
        """
    def close(self) -> bool:
        """Write and sync everything and end the journal; True if the disk has it all (or there was none). Nothing is journaled after it."""
    @property
    def degraded(self) -> bool:
        """The journal's disk is full or fails. Posts wait in memory, up to `most_waiting_bytes`, until there is room again."""
    def journal(self) -> JournalStatus | None: ...
    def reserve(self, accounts: Iterable[tuple[str, Rule]], nano_usd: int, tokens: int, ttl_ns: int, now_ns: int) -> Reservation | Denial:
        """Hold both amounts on every account for `ttl_ns`, or on none.

        Accounts are made on first use; the rule given with an account is the one in force from now on. An amount of 0 always fits:
        a model that costs nothing may answer where the money has run out. An account never goes back to a window that has passed,
        whatever the clock does; a window of another shape takes over what was spent. ValueError for an account named twice, a name that
        is empty, longer than 4096 bytes or has control characters, and a rule whose window does not hold `now_ns`.
        """
    def post(self, reservation: int, nano_usd: int, tokens: int, now_ns: int, call: str = "") -> Posting:
        """Post what was used, in full, into the window in which it was reserved. Also possible once after expiry.

        `call` is what the journal calls it.
        """
    def void(self, reservation: int, now_ns: int) -> None:
        """End a reservation of which nothing was used, pending or expired."""
    def expire(self, now_ns: int) -> int:
        """Give back what reservations past their time hold; returns how many. Each can still be posted or voided, once.

        Call it now and then: it also drops accounts that are idle. Of expired and never settled reservations the latest 65,536 are
        kept.
        """
    def balance(self, account: str, now_ns: int) -> Balance | None:
        """Return the account in the window of `now_ns`; None if nothing is known of it in that one."""
    def window(self, account: str) -> tuple[int, int | None] | None:
        """Return begin and end of the window in which a reservation will count, also where the clock was put back to before it."""
    def top_up(self, account: str, rule: Rule, nano_usd: int, tokens: int, now_ns: int) -> Balance:
        """Add to the account's limits, for the window in force only. An account that never was is made."""
    def freeze(self, account: str) -> bool:
        """Refuse whatever is reserved on accounts of this name, whatever their mode; False if it was so already. Calls in flight settle."""
    def unfreeze(self, account: str) -> bool: ...
    def close_account(self, account: str) -> Balance | None:
        """End an account, a run's for example, and return its last balance. Calls in flight settle; then its name is free again."""
    def accounts(self) -> int:
        """How many accounts are known."""
    def names(self) -> list[str]:
        """Return the names of all accounts, in no order."""
    def pending(self) -> int:
        """How many reservations hold something."""

# --- journal --------------------------------------------------------------------------------------------------------------------

@final
class JournalStatus:
    """How the journal of a running ledger is. Entries are counted from its beginning."""

    @property
    def degraded(self) -> bool: ...
    @property
    def trouble(self) -> str:
        """Why the last write, sync or snapshot failed; empty when all is well."""
    @property
    def last(self) -> int:
        """The last entry handed over."""
    @property
    def written(self) -> int: ...
    @property
    def synced(self) -> int:
        """The last entry that a power cut cannot take any more."""
    @property
    def waiting_bytes(self) -> int: ...
    @property
    def lost(self) -> int:
        """Posts that were not written down because too much waited for the disk. Balances are made whole when there is room again."""
    @property
    def unshielded(self) -> int:
        """Entries that found no room in the memory that outlives the process: until they were written a kill would have lost them."""

@final
class JournalReport:
    """What a journal holds. `damage` is empty if a sidecar would start with it."""

    @property
    def last(self) -> int: ...
    @property
    def accounts(self) -> int: ...
    @property
    def frozen(self) -> int: ...
    @property
    def posts(self) -> int: ...
    @property
    def posted_nano_usd(self) -> int:
        """Of all posts since the journal began; with `posted_tokens` what the usage log adds up to."""
    @property
    def posted_tokens(self) -> int: ...
    @property
    def notices(self) -> list[str]: ...
    @property
    def damage(self) -> str: ...
    @property
    def lost(self) -> list[str]:
        """What a repair could not keep."""
    @property
    def moved_to(self) -> str:
        """Where a repair has put the damaged files; empty if there was nothing to repair."""

def check_journal(path: str | PathLike[str]) -> JournalReport:
    """Read all of a journal and change nothing. OSError if it cannot be read, or a running process uses it."""

def repair_journal(path: str | PathLike[str]) -> JournalReport:
    """Keep every valid entry of a damaged journal, and move its files into a folder beside it; one without damage is left as it is."""

# --- breaker --------------------------------------------------------------------------------------------------------------------

@final
class Refusal:
    """No permit."""

    @property
    def retry_at_ns(self) -> int | None:
        """When the first trial may go. None: not known, as the trials' or the ramp's permits are out or an operator holds it open."""

@final
class Breaker:
    """Opens for `open_ns`, then lets `trials` through: all succeed and it closes, one fails and it opens again.

    It opens after `failures` in a row, or on a failure that makes them more than `rate_percent` (0: never) of the calls of the last
    `window_ns` (forgotten by tenths, counted while closed) if those are at least `least_calls`. Once the trials have succeeded, a ramp
    lets 2 x `trials` permits be out at once, one more with each success and twice as many every 5 s; from 64 on it is over.

    Every permit is handed back exactly once, with `success`, `failure` or `ignore`. A permit from before the last change of state
    counts for nothing. `now_ns` is any monotonic clock. ValueError for a permit never given and for numbers out of range.
    """

    def __new__(
        cls,
        *,
        failures: int,
        open_ns: int,
        trials: int = 1,
        rate_percent: int = 0,
        window_ns: int = 60_000_000_000,
        least_calls: int = 20,
    ) -> Breaker: ...
    def permit(self, now_ns: int) -> int | Refusal:
        """A permit (a number that counts upwards, from 1), or until when there is none."""
    def shorten(self, until_ns: int) -> None:
        """An open breaker's pause ends at `until_ns` at the latest: whoever asks then is a trial. Nothing else is changed."""
    def success(self, permit: int, now_ns: int) -> None: ...
    def failure(self, permit: int, now_ns: int, open_for_ns: int | None = None) -> None:
        """The call failed. `open_for_ns` opens at once and for that long, as a provider's Retry-After asks for."""
    def ignore(self, permit: int, now_ns: int) -> None:
        """The outcome says nothing about the provider: not counted, and the place of a trial or of the ramp is free for somebody else."""
    def hint(self, now_ns: int) -> None:
        """Somebody else saw the provider fail: while closed, the next failure opens it; a success says otherwise."""
    def state(self, now_ns: int) -> Literal["closed", "open", "half_open"]:
        """An open breaker whose time is over is half_open: the next caller is a trial."""
    def retry_at_ns(self, now_ns: int) -> int | None:
        """When an open breaker lets a trial through. None: it is not open, or an operator holds it."""
    def force(self, state: Literal["closed", "open"] | None) -> None:
        """Hold the breaker closed or open whatever the outcomes; None lets it go again, closed and with no failures."""
    def reset(self) -> None:
        """Closed, no failures, not forced."""
    @property
    def forced(self) -> bool: ...
    @property
    def generation(self) -> int:
        """Counts the changes of state and of what operators hold, from 1."""
    @property
    def why(
        self,
    ) -> Literal["failures", "rate", "hint", "asked", "time_over", "trial_failed", "trials_succeeded", "held", "let_go"] | None:
        """Why it last changed: `asked` is `open_for_ns`, `held` and `let_go` are operators'. None: it never did."""

# --- limiter --------------------------------------------------------------------------------------------------------------------

@final
class Exceeded:
    """Nothing was taken: the unit that has to be waited for longest."""

    @property
    def unit(self) -> Literal["requests", "tokens"]: ...
    @property
    def limit(self) -> int: ...
    @property
    def remaining(self) -> int: ...
    @property
    def retry_after_ns(self) -> int | None:
        """The same take succeeds after this long, if nobody else takes. None: never, it is more than the limit can hold."""

@final
class Limiter:
    """Requests and tokens per window: two buckets that start full, fill evenly, and never hold more than their limit.

    None is no limit (until a provider states one, see `observe`). At most the limit can be taken at once, and over time no more than
    the limit plus what has flowed in. `now_ns` is any monotonic clock; one that goes back brings nothing in.
    """

    def __new__(cls, *, requests: int | None, tokens: int | None, window_ns: int = 60_000_000_000) -> Limiter: ...
    def take(self, tokens: int, now_ns: int) -> Exceeded | None:
        """Take one request and its tokens, or nothing."""
    def give_back(self, tokens: int, now_ns: int, requests: int = 0) -> None:
        """Give back what was taken and not used."""
    def remaining(self, now_ns: int) -> tuple[int | None, int | None]:
        """Requests and tokens that could be taken now; None where there is no limit."""
    def observe(
        self,
        unit: Literal["requests", "tokens"],
        now_ns: int,
        *,
        limit: int | None = None,
        remaining: int | None = None,
        reset_after_ns: int | None = None,
    ) -> None:
        """Adopt what a provider's headers state about one unit; None is not stated.

        The smaller of `limit` and the configured one is in force from now on (0 counts as not stated). `remaining` only lowers: calls
        on their way are not in the provider's count yet. `reset_after_ns` is when the provider's bucket is full again; until then
        ours fills no faster than that.
        """

# --- similarity -----------------------------------------------------------------------------------------------------------------

@final
class SimilarityIndex:
    """The nearest vectors by cosine, within one partition. Bounded: the least recently used entry (added, or returned by `nearest`) goes.

    A scan over one-bit sketches chooses 16 candidates per result asked for, at least 256 (a partition no larger than that is
    searched exactly); their exact float32 cosines rank them. Of ten thousand, at least 0.999 of those with a cosine above 0.6 are
    found; where nothing is near, about two thirds of the nearest ten.

    A vector is a float32 buffer or a sequence of numbers. ValueError if it has the wrong length, is all zeros, or has a number that
    is not finite in float32. Keys are 0 to 2**64 - 1, unique in the index.
    """

    def __new__(cls, dimensions: int, *, capacity: int) -> SimilarityIndex: ...
    def add(self, partition: str, key: int, vector: Buffer | Sequence[float]) -> int | None:
        """Add an entry, or replace the one with this key, in whichever partition. Returns the key that had to make room, if any."""
    def nearest(self, partition: str, vector: Buffer | Sequence[float], k: int, min_similarity: float) -> list[tuple[int, float]]:
        """Up to `k` (key, cosine), most similar first, equal ones by key; none below `min_similarity` (-1 to 1)."""
    def remove(self, key: int) -> bool: ...
    def clear(self, partition: str) -> int:
        """Remove a partition's entries; returns how many."""
    def __len__(self) -> int: ...
    @property
    def dimensions(self) -> int: ...
    @property
    def capacity(self) -> int: ...

# --- tokens ---------------------------------------------------------------------------------------------------------------------

@final
class TokenCounter:
    """Counts tokens exactly as tiktoken's `encode_ordinary` does: special tokens such as <|endoftext|> are plain text.

    Nothing is downloaded or loaded: the vocabularies are read-only pages of this extension, shared by all processes of a machine. A count
    takes time in proportion to the text, whatever is in it, and lets other threads run meanwhile if the text is long (8 KiB or more).
    A surrogate without its partner counts as U+FFFD. Counts of parts do not add up to the count of the whole.
    """

    def __new__(cls, encoding: Literal["o200k_base", "cl100k_base"]) -> TokenCounter:
        """Give the counter of one encoding. ValueError for any other, naming the known ones."""

    @property
    def encoding(self) -> Literal["o200k_base", "cl100k_base"]: ...
    def count(self, text: str, /) -> int:
        """Return the number of tokens in `text`."""

    def count_at_most(self, text: str, limit: int, /) -> int | None:
        """Return the number of tokens in `text`, or None as soon as it is certain that it is over `limit`.

        So the time is bounded by `limit`, however long the text is. ValueError for a limit below 0.
        """

    def decode(self, texts: Sequence[Sequence[int]], /) -> list[bytes]:
        """Return the bytes that each text's tokens stand for; they may begin or end within a character.

        Takes some 0.2 ms, and the time of copying. ValueError names the place of the first number that is no token (a special token is
        none); OverflowError for one that is no u32.
        """

# --- verify ---------------------------------------------------------------------------------------------------------------------

@final
class Verdict:
    """Whether two prompts ask the same, and why."""

    @property
    def score(self) -> float:
        """0 (a veto refuses) to 1 (identical but for case, spaces and closing punctuation).

        Calibrated: 0.95 is the operating point of `tools/verifier/REPORT.md`, 0.90 a laxer one; serve at or above a threshold.
        """
    @property
    def veto(self) -> str:
        """The first difference that refuses, as "number" or "negation"; empty if none does. All names: `tools/verifier/REPORT.md`."""
    @property
    def features(self) -> dict[str, float]:
        """What the trees see, by name; always the same names in the same order, NaN for a cosine that is not given."""
    @property
    def deciding(self) -> list[str]:
        """What the veto saw on both sides, or the features that cost the score most: a few short texts, with words of the prompts."""

def compare(asked: str, stored: str, cosine: float | None = None) -> Verdict:
    """Say whether `asked` is the same question as `stored`; symmetric. `cosine` (-1 to 1) of their embeddings, if there are any.

    No model and no I/O: some ten microseconds. The first call in a process reads the lexicon, some 7 ms. A text over 480 bytes of
    UTF-8 or of more than 30 words that say something is the same only as itself (case, spaces and closing punctuation apart).
    """

@final
class Candidate:
    """One stored prompt that resembles the one asked."""

    @property
    def key(self) -> int: ...
    @property
    def similarity(self) -> float:
        """Of words and character trigrams, 0 to 1, estimated from sketches; 1 for identical texts. It orders, it proves nothing."""
    @property
    def score(self) -> float:
        """`Verdict.score` of the two."""
    @property
    def veto(self) -> str:
        """`Verdict.veto` of the two."""

@final
class PromptIndex:
    """Stored prompts by likeness, within one partition, analysed once. Bounded: the oldest entry, over all partitions, makes room.

    Every method releases the GIL for its work and is safe to call from any thread. Keys are 0 to 2**64 - 1, unique in the index. An
    entry takes some 0.7 KiB, at most 1.3. The first prompt of a process reads the lexicon: some 7 ms and 1.5 MiB.
    """

    def __new__(cls, capacity: int) -> PromptIndex: ...
    def add(self, partition: str, key: int, text: str) -> int | None:
        """Add a prompt, or replace the one with this key, in whichever partition. Returns the key that had to make room, if any."""
    def candidates(self, partition: str, text: str, most: int = 32) -> list[Candidate]:
        """Up to `most` (1 to 1024) of the partition, refused ones too: best score first, then the most similar, then by key."""
    def remove(self, key: int) -> bool: ...
    def clear(self, partition: str) -> int:
        """Remove a partition's entries; returns how many."""
    def __len__(self) -> int: ...
    @property
    def capacity(self) -> int: ...
