"""Addresses at which there is no provider: nobody listens, the name is nobody's, the connection or its TLS never comes about."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.fakes.running import free_port

_NO_NAME = ".".join(["no-such-name"] * 20) + ".invalid"  # longer than names may be: the system says so itself, and asks no name server


@contextlib.asynccontextmanager
async def addresses(folder: Path, fake_url: str) -> AsyncIterator[dict[str, str]]:
    """By what is wrong with it: an address without a path. `plain` is the fake's own, asked for TLS."""
    with _deaf() as deaf:
        async with _self_signed(folder) as self_signed:
            yield {
                "refused": f"http://127.0.0.1:{free_port()}",
                "nameless": f"http://{_NO_NAME}",
                "deaf": deaf,
                "plain": fake_url.replace("http://", "https://"),
                "self_signed": self_signed,
            }


@contextlib.contextmanager
def _deaf() -> Iterator[str]:
    """A port whose backlog is full: the system leaves further connections without a word."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextlib.asynccontextmanager
async def _self_signed(folder: Path) -> AsyncIterator[str]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(_certificate(folder))

    async def never_asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(never_asked, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"https://localhost:{server.sockets[0].getsockname()[1]}"


def _certificate(folder: Path) -> Path:
    """A key and a certificate for localhost that it signed itself, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    path = folder / "self_signed.pem"
    path.write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain) + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path
