"""Certificates of both doors, read again when their files have changed."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import grpc
from msgspec import Struct

from sidecar.settings.doors import Tls


class BadCertificate(Exception):
    """A file of [tls] cannot be used; says which and why."""


class _Loaded(Struct, frozen=True):
    """The files as they were at one moment, `stamp`: for HTTP as a context, for gRPC as text."""

    stamp: tuple[Any, ...]
    context: ssl.SSLContext
    key: bytes
    chain: bytes
    client_ca: bytes | None


class Certificates:
    """The files of [tls]. They are looked at whenever somebody connects, so that a certificate can be renewed while calls run.

    Kubernetes swaps all files at once by a link. Whoever writes them one after the other may be met half-way, or be wrong: then those
    before stay in use, `told` hears of it, and the next connection after the next change looks again.
    """

    def __init__(self, settings: Tls, told: Callable[[str, Literal["info", "warning"]], None]) -> None:
        """To be made on the event loop, where `told` is called. Raises BadCertificate."""
        self._settings = settings
        self._told = told
        self._loop = asyncio.get_running_loop()
        self._lock = Lock()  # gRPC asks in threads of its own
        self._loaded = self._load(self._stamp())
        self._seen = self._loaded.stamp

    def context(self) -> ssl.SSLContext:
        """For a server of asyncio: each connection gets the files as they are then."""
        fresh = _Fresh(ssl.PROTOCOL_TLS_SERVER)
        fresh.certificates = self
        return fresh

    def credentials(self) -> grpc.ServerCredentials:
        """The same for gRPC, which asks at each connection whether there is something new."""
        given = self._loaded

        def renewed() -> Any:
            nonlocal given
            latest = self.latest()
            if latest is given:
                return None
            given = latest
            return _configuration(latest)

        return grpc.dynamic_ssl_server_credentials(_configuration(given), renewed, bool(self._settings.client_ca_file))

    def latest(self) -> _Loaded:
        with self._lock:
            stamp = self._stamp()
            if stamp != self._seen:
                self._seen = stamp
                level: Literal["info", "warning"] = "info"
                try:
                    self._loaded = self._load(stamp)
                    told = "the certificate of the doors was read anew"
                except BadCertificate as error:
                    told, level = f"the certificate of the doors stays as it was: {error}", "warning"
                self._loop.call_soon_threadsafe(self._told, told, level)
            return self._loaded

    def _files(self) -> tuple[str, ...]:
        return tuple(filter(None, (self._settings.cert_file, self._settings.key_file, self._settings.client_ca_file)))

    def _stamp(self) -> tuple[Any, ...]:
        stamps: list[Any] = []
        for file in self._files():
            try:
                found = Path(file).stat()
                stamps.append((found.st_mtime_ns, found.st_ino, found.st_size))
            except OSError:
                stamps.append(None)
        return tuple(stamps)

    def _load(self, stamp: tuple[Any, ...]) -> _Loaded:
        settings = self._settings
        texts = []
        for file in self._files():
            try:
                texts.append(Path(file).read_bytes())
            except OSError as error:
                raise BadCertificate(f"{file} cannot be read: {error.strerror}") from None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(settings.cert_file, settings.key_file, _no_password)
        except (ssl.SSLError, ValueError) as error:
            what = getattr(error, "reason", None) or error
            raise BadCertificate(f"{settings.cert_file} and {settings.key_file} are no certificate and its key: {what}") from None
        if settings.client_ca_file:
            context.verify_mode = ssl.CERT_REQUIRED
            try:
                context.load_verify_locations(settings.client_ca_file)
            except ssl.SSLError as error:
                raise BadCertificate(f"{settings.client_ca_file} is no certificate of an authority: {error.reason}") from None
        return _Loaded(stamp, context, texts[1], texts[0], texts[2] if settings.client_ca_file else None)


class _Fresh(ssl.SSLContext):
    """Hands each connection over to the context of the files as they are now: asyncio and uvloop ask it for nothing else."""

    certificates: Certificates

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        return self.certificates.latest().context.wrap_bio(*args, **kwargs)


def _configuration(loaded: _Loaded) -> Any:
    return grpc.ssl_server_certificate_configuration([(loaded.key, loaded.chain)], loaded.client_ca)


def _no_password() -> str:
    raise ValueError("the key is locked by a password; expected one without")
