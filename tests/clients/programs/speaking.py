"""How a program of these tests is spoken to: one case a line on standard input, what it saw as lines of JSON on standard output.

A case ends with a line that has `done`, or with one that has `error`: the exception's class and what its user can read off it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="  # one pixel
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


def say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def listen(cases: dict[str, Callable[[str], None]], described: Callable[[Exception], dict[str, Any]]) -> None:
    """Run cases until standard input ends. `described` says what a user reads off an exception."""
    for line in sys.stdin:
        case, model = json.loads(line)
        try:
            cases[case](model)
        except Exception as error:
            say(error={"class": type(error).__name__, **described(error)})
        else:
            say(done=case)
