"""The token counter against tiktoken, and what it weighs: `python -m tests.bench.bench_tokens`.

Speed: both count every text in turn, on one thread, in rounds; the best round of each is compared. Weight: each figure is the median of
fresh processes, in turn; what they hold before the counter or tiktoken is imported is subtracted.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from pydoc_data import topics

from sidecar import _core
from tests.tools.tiktoken_oracle import ENCODINGS, oracle, tokens

ROUNDS = 9
PROCESSES = 5
HOSTILE_BYTES = 100_000
CORPUS = Path(__file__).resolve().parent.parent / "core" / "corpus.txt"
KOREAN = (
    "사이드카는 서비스 곁에서 모든 언어 모델 호출을 대신 처리하는 작은 프로세스입니다. 호출이 들어오면 먼저 누가 요청했는지 확인하고, "
    "예산이 남아 있는지 살핀 다음 가장 알맞은 모델을 고릅니다. 응답이 늦어지거나 공급자가 멈추면 다음 후보에게 넘기고, 사용한 토큰과 "
    "비용은 한 번만 정확하게 기록합니다. 어제 저녁에는 비가 많이 내려서 강가의 산책로가 물에 잠겼고, 아이들은 집에서 책을 읽었습니다.\n"
)

# Run in a process of its own: imports, counts a short text, then every token of both vocabularies, slice by slice.
COUNTER = "from sidecar._core import TokenCounter; make = lambda name: TokenCounter(name).count"
TIKTOKEN = "from tests.tools.tiktoken_oracle import oracle; make = lambda name: lambda text: len(oracle(name).encode_ordinary(text))"
WEIGHT = """
import json, sys, time
def resident_kib():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4
with open(sys.argv[2], encoding="utf-8") as file:
    text = file.read()
held = resident_kib()
exec(sys.argv[1])
started = time.perf_counter()
make("o200k_base")("Say what happened in one sentence.")
first_ms = (time.perf_counter() - started) * 1e3
for name in ("o200k_base", "cl100k_base"):
    count = make(name)
    for start in range(0, len(text), 4096):
        count(text[start : start + 4096])
print(json.dumps([first_ms, (resident_kib() - held) / 1024]))
"""


def texts() -> dict[str, str]:
    """Return what is counted, by kind: what people send, then what somebody could send to do harm."""
    draw = random.Random(5)

    def repeated(unit: str) -> str:
        return unit * (HOSTILE_BYTES // len(unit.encode()))

    return {
        "prose": "\n".join(topics.topics.values()),
        "code": Path(argparse.__file__).read_text(encoding="utf-8"),
        "Korean": KOREAN * 100,
        "60 languages and codes": CORPUS.read_text(encoding="utf-8") * 5,
        "100 KB of one letter": repeated("a"),
        "100 KB of dashes": repeated("-"),
        "100 KB of spaces": repeated(" "),
        "100 KB of random letters": "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=HOSTILE_BYTES)),
        "100 KB of random bytes": draw.randbytes(HOSTILE_BYTES).decode("utf-8", "replace"),
        "100 KB of emoji joiners": repeated("\u200d"),
        "100 KB of joined emoji": repeated("👩\u200d👧\u200d"),
        "100 KB of mixed apostrophes": repeated("'s’t'\u017f'LL'"),
    }


def seconds(count: Callable[[str], object], text: str) -> float:
    started = time.perf_counter()
    count(text)
    return time.perf_counter() - started


def speed() -> None:
    print(f"{'text':28} {'encoding':12} {'KB':>6} {'MB/s':>7} {'tiktoken':>9} {'ratio':>6}")
    for kind, text in texts().items():
        for encoding in ENCODINGS:
            ours, theirs = _core.TokenCounter(encoding).count, oracle(encoding).encode_ordinary
            if ours(text) != len(theirs(text)):
                raise SystemExit(f"{kind}, {encoding}: {ours(text)} tokens, and {len(theirs(text))} in tiktoken")
            rounds = [(seconds(ours, text), seconds(theirs, text)) for _ in range(ROUNDS)]
            our_s, their_s = (min(times) for times in zip(*rounds, strict=True))
            size = len(text.encode())
            line = f"{kind:28} {encoding:12} {size / 1e3:6.0f} {size / our_s / 1e6:7.1f} {size / their_s / 1e6:9.1f} {their_s / our_s:6.1f}"
            print(line)


def weight() -> None:
    every_token = " ".join(token.decode("utf-8", "ignore") for encoding in ENCODINGS for token in tokens(encoding))
    found: dict[str, list[list[float]]] = {COUNTER: [], TIKTOKEN: []}
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
        file.write(every_token)
        file.flush()
        for _ in range(PROCESSES):
            for code, results in found.items():
                command = [sys.executable, "-c", WEIGHT, code, file.name]
                results.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    medians = [statistics.median(column) for results in found.values() for column in zip(*results, strict=True)]
    first_ms, added_mib, their_first_ms, their_added_mib = medians
    size = Path(_core.__file__).stat().st_size / 1e6
    print(f"first count                                  {first_ms:8.3f} ms    aim 5     tiktoken {their_first_ms:.0f} ms")
    print(f"memory added by import and every token       {added_mib:8.1f} MiB   aim 10    tiktoken {their_added_mib:.0f} MiB")
    print(f"size of the extension, with all its classes  {size:8.1f} MB    aim 12")


if __name__ == "__main__":
    speed()
    weight()
