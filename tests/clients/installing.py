"""Puts the clients' own packages into folders of their own under .tools/clients, once for each list of packages.

A folder is named by a digest of what is in it, so another version is another folder and a second run installs nothing.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.fakes.running import ROOT
from tests.tools.tiktoken_oracle import published

HOME = ROOT / ".tools" / "clients"

PYTHON = {
    "openai": ("openai==3.54.0",),
    "anthropic": ("anthropic==2.12.0",),
    "langchain": ("langchain-openai==1.7.3", "langchain-tests==1.1.9", "langchain-core==1.7.2", "pytest", "pytest-asyncio"),
    "pydantic-ai": ("pydantic-ai-slim[openai]==2.68.0",),
}
NODE = {
    "openai": ("openai@6.49.0",),
    "anthropic": ("@anthropic-ai/sdk@1.12.0",),
}
_COPY_JARS = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
EXAMPLES = {  # how the programs of deploy/examples are built, and what runs them then
    "go": ("buf generate && go build -buildvcs=false -o example .", ("./example",)),
    "node": ("npm ci --silent --ignore-scripts && buf generate && npm run --silent build", ("node", "dist/main.js")),
    "java": (f"mvn -q -B compile {_COPY_JARS}", ("java", "-cp", "target/classes:target/dependency/*", "example.Main")),
}
_MADE = ("gen", "dist", "target", "node_modules")  # by whoever has built an example where it lies


def python(name: str) -> Path:
    """The interpreter of an environment with that client. Raises RuntimeError with the installer's own words."""
    packages = PYTHON[name]
    folder = _folder(name, packages, sys.version_info[:2])
    found = folder / "bin" / "python"
    if not (folder / "whole").exists():
        shutil.rmtree(folder, ignore_errors=True)
        uv = str(ROOT / ".venv" / "bin" / "uv")
        _run([uv, "venv", "-q", "--python", sys.executable, str(folder)])
        _run([uv, "pip", "install", "-q", "--python", str(found), *packages])
        (folder / "whole").touch()
    return found


def node(name: str) -> Path:
    """A folder whose node_modules has that client. Raises RuntimeError with the installer's own words."""
    packages = NODE[name]
    folder = _folder(f"node-{name}", packages, ())
    if not (folder / "whole").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "package.json").write_text('{"private": true, "type": "module"}')
        _run(["npm", "install", "--silent", "--no-fund", "--no-audit", "--no-save", "--ignore-scripts", *packages], folder)
        (folder / "whole").touch()
    return folder


def vocabulary() -> Path:
    """A folder where tiktoken finds what it would download: LangChain cuts texts with it before they are embedded."""
    folder = HOME / "tiktoken"
    file = folder / "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"  # the SHA-1 of cl100k_base's address
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_bytes(published("cl100k_base"))
    return folder


def example(language: str) -> tuple[tuple[str, ...], Path]:
    """What runs a copy of that example, and its folder. Raises RuntimeError with the builder's own words."""
    build, program = EXAMPLES[language]
    sources = (Path("deploy", "examples", language), Path("proto"))
    files = [file for source in sources for file in sorted((ROOT / source).rglob("*")) if file.is_file() and not {*_MADE} & {*file.parts}]
    copy = _folder(f"example-{language}", (build, *(file.read_text() for file in files)), ())
    folder = copy / sources[0]
    if not (copy / "whole").exists():
        shutil.rmtree(copy, ignore_errors=True)
        for source in sources:
            shutil.copytree(ROOT / source, copy / source, ignore=shutil.ignore_patterns(*_MADE))
        _run(["sh", "-c", build], folder)
        (copy / "whole").touch()
    return program, folder


def _folder(name: str, packages: tuple[str, ...], platform: tuple[int, ...]) -> Path:
    return HOME / f"{name}-{hashlib.sha256(repr((packages, platform)).encode()).hexdigest()[:12]}"


def _run(command: list[str], folder: Path = ROOT) -> None:
    environ = {**os.environ, "VIRTUAL_ENV": "", "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"}
    environ["MAVEN_OPTS"] = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"  # for a run this short: half of the time
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environ, timeout=280)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {done.returncode}:\n{done.stderr[-2000:]}{done.stdout[-500:]}")
