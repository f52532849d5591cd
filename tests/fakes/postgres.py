"""A real PostgreSQL of the system's, in a folder of its own on a free loopback port: it can be stopped, killed and started again there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import psycopg

from tests.fakes.running import free_port

HOW = "PostgreSQL's programs come with the system (Debian: apt-get install postgresql)"


def programs() -> Path | None:
    """The folder of the newest one that is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    if found:
        return found[-1].parent
    initdb = shutil.which("initdb")
    return Path(initdb).resolve().parent if initdb else None


class Postgres:
    """One server. It refuses to run as root: then it runs as the system's user postgres. Use it as a context manager."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self._programs = programs()
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._as: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        if self._as:
            shutil.chown(self._folder, "postgres", "postgres")
        self._process: subprocess.Popen[bytes] | None = None

    def _run(self, program: str, *options: str, check: bool) -> int:
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/"}
        return subprocess.run((f"{self._programs}/{program}", *options), check=check, **quiet, **self._as).returncode

    def start(self, within_s: float = 30) -> None:
        """Raises AssertionError with the server's own words if it does not come up."""
        data, log = self._folder / "data", self._folder / "log"
        if not data.exists():
            self._run("initdb", "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", check=True)
        serve = [f"{self._programs}/postgres", "-D", str(data), "-p", str(self.port), "-h", "127.0.0.1", "-k", str(self._folder), "-F"]
        with log.open("ab") as out:
            self._process = subprocess.Popen(serve, stdout=out, stderr=out, cwd="/", **self._as)
        end = time.monotonic() + within_s
        while self._run("pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port), check=False):
            if self._process.poll() is not None or time.monotonic() > end:
                raise AssertionError(log.read_text(errors="replace"))
            time.sleep(0.02)

    def stop(self, how: int = signal.SIGINT) -> None:
        """End it, open connections too. With SIGQUIT as a crash would: it has to recover at its next start."""
        if self._process is not None:
            self._process.send_signal(how)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def ask(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            done = connection.execute(statement.encode(), values or None)
            return done.fetchall() if done.description else []

    def clear(self) -> None:
        """Drop every table that the sidecar makes."""
        self.ask("DROP TABLE IF EXISTS llm_calls, llm_days, llm_migrations")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
