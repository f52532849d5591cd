"""Where the sidecar listens, and whom it lets in: `[server]`, `[http]`, `[tls]`, `[auth]`."""

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct

from sidecar.settings.kinds import Address, Bytes, Milliseconds, Name, Origin, Sha256


class Server(Struct, frozen=True):
    """The gRPC door and the operations port. Other addresses than loopback need [tls] or [auth], the operations port's apart.

    `data_dir` holds what was spent (see [journal]), the usage log, and the models that users prefer.
    """

    listen: Address = "127.0.0.1:50051"  # port 0: any free one; "": no TCP door (then `socket` must be set)
    socket: str = ""  # path of a Unix socket to listen on as well, for whoever can enter its folder (mode 0666); "": none
    ops_listen: Address = "127.0.0.1:9090"  # metrics and probes; may be any address; "": off
    grace_ms: Annotated[int, Meta(ge=0, le=3_600_000)] = 30_000  # how long calls in flight may go on after SIGTERM
    max_message_bytes: Annotated[int, Meta(ge=1024, le=1_073_741_824)] = 32 * 1024 * 1024  # one request by either door, images included
    max_prompt_bytes: Annotated[int, Meta(ge=1024, le=1_073_741_824)] = 4 * 1024 * 1024  # all text of one request
    max_connections: Annotated[int, Meta(ge=1, le=1_000_000)] = 4_096  # of the gRPC door
    reflection: bool = True
    data_dir: str | None = None  # what must outlive the process goes here; None: it is kept in memory only
    language: Literal["en", "ko"] = "en"  # of messages for people, where the caller's metadata `accept-language` names neither


class Http(Struct, frozen=True):
    """The HTTP door. Browsers may call from `allowed_origins` only; a request that names another origin is refused before it is read."""

    listen: Address = "127.0.0.1:8080"  # port 0: any free one; "": off
    allowed_origins: tuple[Origin, ...] = ()
    heartbeat_ms: Milliseconds = 15_000  # an event stream that was silent for so long says something, for proxies to see that it lives
    retry_ms: Milliseconds = 1_000  # what event streams tell clients to wait before they come back
    resume_ms: Annotated[int, Meta(ge=0, le=3_600_000)] = 30_000  # a stream whose client can resume it lives on so long without a client
    resume_bytes: Bytes = 256 * 1024  # the last events of such a stream, for a client that comes back
    header_ms: Milliseconds = 10_000  # from a connection's, or a request's, first byte to the last of its header
    body_ms: Milliseconds = 30_000  # from there to the last byte of the body
    idle_ms: Milliseconds = 75_000  # a connection without a request
    max_header_bytes: Annotated[int, Meta(ge=1024, le=1_048_576)] = 16_384  # a request's line, and each of its headers
    max_connections: Annotated[int, Meta(ge=1, le=1_000_000)] = 4_096
    # Of OpenAI's and Anthropic's requests; pass: handed to the provider as they are.
    unknown_parameters: Literal["refuse", "pass"] = "refuse"


class Tls(Struct, frozen=True):
    """TLS of both doors, the Unix socket apart. PEM files, read again for each new connection after they have changed.

    With `client_ca_file` callers have to show a certificate of that authority.
    """

    cert_file: str = ""  # the certificate, and those between it and its authority; "": no TLS
    key_file: str = ""
    client_ca_file: str = ""


class Token(Struct, frozen=True):
    """One caller's token, by its hash, and who its calls are from: what is not set the caller may say."""

    sha256: Sha256
    service: str = ""
    node: str = ""
    tenant: str = ""
    user: str = ""
    plan: str = ""
    run: str = ""
    agent: str = ""

    def __repr__(self) -> str:
        return f"Token(tenant={self.tenant!r}, service={self.service!r})"


class Auth(Struct, frozen=True):
    """Tokens, `authorization: Bearer TOKEN` by either door. With any of `tokens` every call needs one; OpsService has its own.

    A token should be random, 128 bits or more (`openssl rand -hex 32`): hashes of words can be guessed.
    """

    tokens: Mapping[Name, Token] = {}
    ops_sha256: Sha256 | None = None  # of OpsService; None: it is open, or, where there are `tokens`, closed to all

    def __repr__(self) -> str:
        return f"Auth(tokens={list(self.tokens)}, ops={'hidden' if self.ops_sha256 else 'none'})"
