"""The processes of a bench: started, measured from outside, ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import grpc
import msgspec
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.bench.load import Job, Outcome

ROOT = Path(__file__).resolve().parents[2]
# A bench must not meet the keys and settings of whoever runs it.
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")


class Process:
    """One Python process. Use it as a context manager; leaving it ends the process."""

    def __init__(self, *arguments: str, errors: Path | None = None, stdin: bool = False, environment: Mapping[str, str] | None = None):
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        self.began = time.monotonic()
        with open(errors or os.devnull, "wb") as stderr:
            self._process = subprocess.Popen(
                (sys.executable, *arguments),
                cwd=ROOT,
                env=kept | dict(environment or {}),
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def line(self) -> bytes:
        """The next line of its standard output. Raises RuntimeError when the process has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with status {self._process.wait()}")
        return line

    def port(self) -> int:
        """Waits until it serves, and says where."""
        return int(self.line().split()[1])

    def write(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()

    def is_running(self) -> bool:
        return self._process.poll() is None

    def cpu_s(self) -> float:
        """Seconds of CPU that its living threads have used, to the nanosecond (/proc/PID/stat counts in steps of 10 ms)."""
        tasks = Path(f"/proc/{self._process.pid}/task")
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9

    def memory_mib(self) -> float:
        """Resident memory."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Load(Process):
    """The process of the callers."""

    def __init__(self) -> None:
        super().__init__("-m", "tests.bench.load", stdin=True)
        self.port()

    def run(self, job: Job) -> Outcome:
        self.write(msgspec.json.encode(job))
        return msgspec.json.decode(self.line(), type=Outcome)


class Sidecar(Process):
    """`sidecar serve` with these settings, on a free port. `start_ms` is the time from its start until health says SERVING."""

    def __init__(self, folder: Path, settings: str) -> None:
        port = free_port()
        self.target = f"127.0.0.1:{port}"
        self.http = f"127.0.0.1:{free_port()}"
        file = folder / f"{port}.toml"
        file.write_text(
            f'[server]\nlisten = "{self.target}"\nops_listen = "127.0.0.1:{free_port()}"\n[http]\nlisten = "{self.http}"\n{settings}'
        )
        self.errors = folder / f"{port}.log"
        super().__init__("-m", "sidecar", "serve", "--settings", str(file), errors=self.errors)
        self._await_serving()
        self.start_ms = (time.monotonic() - self.began) * 1000

    def _await_serving(self) -> None:
        host, port = self.target.split(":")
        while self.is_running():
            try:
                socket.create_connection((host, int(port)), 1).close()
                break
            except OSError:
                time.sleep(0.005)
        with grpc.insecure_channel(self.target) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            while self.is_running():
                reply = health.Check(health_pb2.HealthCheckRequest(service=""), timeout=20)
                if reply.status == health_pb2.HealthCheckResponse.SERVING:
                    return
                time.sleep(0.005)
        raise RuntimeError(f"the sidecar did not start: {self.errors.read_text()}")


class Floor(Process):
    """The floor program."""

    def __init__(self, upstream: str) -> None:
        super().__init__("-m", "tests.bench.floor", "127.0.0.1:0", upstream)
        self.target = f"127.0.0.1:{self.port()}"
        self.start_ms = (time.monotonic() - self.began) * 1000


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
