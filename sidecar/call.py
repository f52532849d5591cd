"""One call: what was asked, what each stage found out, what was answered.

Requests and chunks are frozen: a door makes a request, a provider makes chunks, nobody changes either. `Call` alone is
mutable, and each of its attributes is written by exactly one stage (the table in ARCHITECTURE.md says which).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from msgspec import Struct

from sidecar.request import Complexity, EmbedRequest, GenerateRequest, Message, ResponseFormat, Tool, ToolChoice

if TYPE_CHECKING:
    from sidecar.answer import Answer
    from sidecar.caching import Caching
    from sidecar.catalog import Model, Node
    from sidecar.counting import Size
    from sidecar.errors import SidecarError
    from sidecar.policies.cache_repeats import Repeat
    from sidecar.providers import Provider

Operation = Literal["generate", "stream", "embed", "count_tokens"]

# Why an answer ended, in one vocabulary for all providers. `stop` covers stop sequences too.
Finish = Literal["stop", "length", "tool_calls", "content_filter", "refusal"]

# What a request may need. A provider states what its wire can carry (`Provider.features`), the catalogue what a model can do
# (`Model.capabilities`); a candidate must have every need in both.
Feature = Literal[
    "generate",
    "embed",
    "system",
    "image",  # image bytes
    "image_url",  # an image by address, fetched by the provider
    "tools",
    "tool_choice",  # required, or one named tool
    "strict_tools",
    "json_object",
    "json_schema",  # the provider is told the schema
    "strict_schema",  # the provider guarantees the schema
    "stop",
    "seed",
    "sampling",  # temperature and top_p
    "dimensions",  # a shortened embedding
]


class GenerateAsk(Struct, frozen=True):
    """What one candidate is asked to write: the request with the node's defaults in place, checked, in neutral form.

    `model` is the provider's own name of the model. System text is the leading messages of role `system`. `max_output_tokens` is
    always set. A provider must carry every field onto its wire; what it cannot carry is missing from its `features`, so that the
    choose stage never brings it here.
    """

    model: str
    messages: tuple[Message, ...]
    stream: bool
    max_output_tokens: int
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    response_format: ResponseFormat | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    options: Mapping[str, Any] = {}  # provider_options: merged into the top level of the body as they are, and win
    cache_marks: tuple[int, ...] = ()  # blocks (system texts, then all other parts, without empty texts) behind which to keep it; -1: tools


class EmbedAsk(Struct, frozen=True):
    model: str
    inputs: tuple[str, ...]
    dimensions: int | None = None
    options: Mapping[str, Any] = {}


class Usage(Struct, frozen=True, gc=False):
    """Tokens, in disjoint buckets, whatever the provider's own habit: their sum is what was processed.

    None: this event does not say. A later event's figures replace an earlier one's, field by field (Anthropic sends input first
    and output last), never add to them.
    """

    input_tokens: int | None = None  # neither cached nor written to a cache
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None  # all writes, 1 h ones included
    cache_write_1h_tokens: int | None = None  # the share of cache_write_tokens that lives for an hour (dearer)
    output_tokens: int | None = None  # visible output, without reasoning
    reasoning_tokens: int | None = None


NOTHING = Usage(0, 0, 0, 0, 0, 0)


class ToolDelta(Struct, frozen=True, gc=False):
    """A piece of a tool call. `index` tells calls of one answer apart (any increasing ints); `id` and `name` come once, first.

    `signature` comes whole, in any one piece.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""
    signature: str = ""


class Head(Struct, frozen=True, gc=False):
    """What a provider's reply headers say, before its body: its request id and its rate limits in its own names."""

    request_id: str = ""
    limits: Mapping[str, str] = {}


class Chunk(Struct, frozen=True):
    """One thing a provider said. A whole unary reply is read into one chunk too, so there is one path.

    `finish` is the provider's own finish reason, translated; `raw_finish` as it was sent. `last` is the protocol's own end (`[DONE]`,
    `message_stop`, `done: true`, a whole JSON body, Gemini's finishReason). An answer without both `finish` and `last` was cut.
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolDelta, ...] = ()
    finish: Finish | None = None
    raw_finish: str = ""
    usage: Usage | None = None
    model: str = ""  # the model the provider says it used
    head: Head | None = None
    last: bool = False


class Vectors(Struct, frozen=True):
    """An embedding reply: one vector per input, in the order of the inputs."""

    vectors: Sequence[Sequence[float]]
    usage: Usage
    model: str = ""
    head: Head | None = None


class Emit(Protocol):
    """Where a provider puts what it has read: all chunks of one network read at once. Awaiting it is the back-pressure."""

    async def __call__(self, chunks: Sequence[Chunk]) -> None: ...


class Candidate(Struct, frozen=True):
    """A model that may answer this call, at one endpoint. `input_tokens` is counted for it; `max_nano_usd` is the most it alone can cost.

    `endpoint` is one region or key of the model's provider, "" where it has only one; `provider` is connected to it.
    """

    model: Model
    provider: Provider
    reason: str
    input_tokens: int
    estimated: bool
    max_output_tokens: int
    max_nano_usd: int
    fallback: bool
    endpoint: str = ""
    writes: Literal["", "5m", "1h"] = ""  # for how long, at most, the prompt may be written to its provider's cache

    @property
    def target(self) -> str:
        """What breakers, quotas and figures are kept for: `provider/model`, or `provider#endpoint/model`."""
        model = self.model
        return f"{model.provider}#{self.endpoint}/{model.name}" if self.endpoint else f"{model.provider}/{model.name}"

    def dimensions(self, request: EmbedRequest) -> int | None:
        """The length of vectors that it is asked for: the catalogue's may differ from the provider's own default."""
        if request.dimensions is None and "dimensions" in self.model.capabilities & self.provider.features:
            return self.model.dimensions
        return request.dimensions


class Skipped(Struct, frozen=True, gc=False):
    """A model that may not answer this call, and why."""

    model: str
    reason: str


class Tried(Struct, frozen=True, gc=False):
    """One attempt that ended. `outcome` is `ok` or an error's reason; `usage` and `nano_usd` are what it is taken to have cost."""

    candidate: Candidate
    outcome: str
    duration_ns: int
    usage: Usage
    estimated: bool
    nano_usd: int


class Recalled(Struct, frozen=True, gc=False):
    """How a call was answered without asking anybody. `joined`: it waited for an identical call that was under way."""

    kind: Literal["exact", "semantic", "stale"]
    similarity: float
    score: float  # the verifier's, 0 to 1; 1 for the same question
    age_ns: int
    source: str  # the id of the call that made the answer
    saved_nano_usd: int  # what the answer had cost there
    joined: bool = False


class Start(Struct, frozen=True):
    """Who answers; sent on before the first piece. `restart` names the error that ended an answer the caller has seen part of."""

    candidate: Candidate
    restart: str = ""


Send = Callable[[Start | Sequence[Chunk]], Awaitable[None]]


class Call:
    """One call on its way through the pipeline.

    The door writes the first block, then each stage its own; nothing is written twice. Times are `time.monotonic()` seconds (the
    event loop's own clock: `arrived`, `begun`, `first_piece`, `deadline`), or nanoseconds where the name says so.
    """

    __slots__ = (
        "aborted",
        "agent",
        "answer",
        "arrived",
        "attempts",
        "begun",
        "cached_inputs",
        "caching",
        "candidates",
        "complexity",
        "deadline",
        "error",
        "estimated",
        "first_piece",
        "id",
        "max_nano_usd",
        "max_tokens",
        "messages",
        "metadata",
        "nano_usd",
        "needs",
        "node",
        "node_name",
        "notices",
        "operation",
        "plan",
        "recalled",
        "repeat",
        "request",
        "reservation",
        "response_format",
        "run",
        "saved_nano_usd",
        "send",
        "sent",
        "served",
        "service",
        "size",
        "skipped",
        "tenant",
        "trace_id",
        "usage",
        "user",
        "vectors",
    )

    def __init__(
        self,
        *,
        id: str,
        operation: Operation,
        request: GenerateRequest | EmbedRequest,
        metadata: Mapping[str, str],
        arrived: float,
        deadline: float,
        send: Send | None = None,
    ) -> None:
        # the door
        self.id = id
        self.operation: Operation = operation
        self.request = request
        self.metadata = metadata
        self.arrived = arrived
        self.deadline = deadline
        self.send = send
        self.repeat: Repeat | None = None  # of an earlier call with the very same bytes; None too when it turns out to be over
        self.aborted: SidecarError | None = None  # set by whoever cancels the call's task for a reason of the sidecar's own
        # any stage may add a sentence
        self.notices: list[str] = []
        # identify
        self.service = ""
        self.node_name = ""
        self.node: Node | None = None
        self.tenant = ""
        self.user = ""
        self.plan = ""
        self.run = ""
        self.agent = ""
        self.trace_id = ""
        # check
        self.messages: tuple[Message, ...] = ()
        self.needs: frozenset[Feature] = frozenset()
        self.response_format: ResponseFormat | None = None
        # count: tokens of the prompt by model, filled as candidates ask for it
        self.size: Callable[[Model], Size] | None = None
        # choose
        self.complexity: Complexity = ""  # what was said or estimated, where it chose something
        self.candidates: tuple[Candidate, ...] = ()
        self.skipped: tuple[Skipped, ...] = ()
        # recall; where every model has failed, the stage `stale`
        self.caching: Caching | None = None
        self.recalled: Recalled | None = None
        self.cached_inputs = 0  # vectors that were remembered; in a batch the attempt stage finds them
        self.saved_nano_usd = 0
        # reserve
        self.reservation: int | None = None
        self.max_nano_usd = 0  # what is held: the most that it can cost or, with `limits.reserve_quantile`, mostly costs
        self.max_tokens = 0
        # attempt
        self.begun: float | None = None  # when the first try began
        self.attempts: list[Tried] = []
        self.served: Candidate | None = None
        self.answer: Answer | None = None
        self.vectors: Vectors | None = None
        self.first_piece: float | None = None
        self.sent: Answer | None = None  # the try whose pieces the caller has seen
        # settle
        self.usage = NOTHING
        self.estimated = False
        self.nano_usd = 0
        # the pipeline, for settle and the door
        self.error: SidecarError | None = None
