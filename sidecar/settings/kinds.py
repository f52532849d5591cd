"""What single values look like: each is checked where it is read, and its description is what an error says was expected."""

from typing import Annotated, Literal

from msgspec import Meta

Kind = Literal["openai", "anthropic", "google", "ollama", "compatible", "echo"]

Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]*\Z", description="a name of small letters, digits, _ and -, beginning with a letter")]
HOST_PORT = r"^((\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5})?\Z"  # or nothing
Address = Annotated[str, Meta(pattern=HOST_PORT, description='host:port in quotes, like "127.0.0.1:50051"')]
Url = Annotated[
    str,
    Meta(
        pattern=r"^https?://[^\s/@?#]+(/[^\s?#]*)?\Z",
        description='a URL like "http://127.0.0.1:8000/v1" without user, query or fragment (a key belongs into api_key)',
    ),
]
Key = Annotated[str, Meta(pattern=r"^[!-~]+\Z", description="a key: printable ASCII without spaces or line breaks")]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z", description="the SHA-256 of a token, 64 hex digits: printf %s TOKEN | sha256sum")]
Origin = Annotated[
    str, Meta(pattern=r"^https?://[a-z0-9.\[\]:-]+\Z", description='an origin as browsers send it, like "https://oracle.example.com"')
]
Bytes = Annotated[int, Meta(ge=1024, le=1_073_741_824)]
HeaderName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9-]+\Z", description="a header name")]
HeaderValue = Annotated[str, Meta(pattern=r"^[ -~]*\Z", description="printable ASCII text")]
Milliseconds = Annotated[int, Meta(ge=1, le=3_600_000)]
Count = Annotated[int, Meta(ge=1, le=100_000_000)]
Tokens = Annotated[int, Meta(ge=0, le=1_000_000_000_000)]
InputTokens = Annotated[str, Meta(pattern=r"^[1-9][0-9]{0,8}\Z", description="a number of input tokens, like 200000")]
Share = Annotated[float, Meta(ge=0, le=1)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Percent = Annotated[int, Meta(ge=0, le=100)]
RedisUrl = Annotated[
    str,
    Meta(
        pattern=r"^(redis|rediss)://[^\s/@?#]+(/[0-9]+)?\Z",
        description='an address like "redis://127.0.0.1:6379/0", rediss:// for TLS (user and password belong into keys of their own)',
    ),
]

PostgresUrl = Annotated[
    str,
    Meta(
        pattern=r"^postgres(ql)?://([^\s/@:?#]+@)?[^\s/@?#]+(/[^\s/?#]*)?(\?[^\s#]*)?\Z",
        description='an address like "postgresql://sidecar@db:5432/usage?sslmode=verify-full" (the password belongs into a key of its own)',
    ),
]

# The failures that a rule can be set for; what each means is in `errors.py`.
FailureName = Literal["rate_limited", "unavailable", "garbled", "stream_cut", "timeout", "first_token", "schema_violated"]
