"""What a pod hears where pods meet about the runs that they share."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Looked(Struct, frozen=True, gc=False):
    """What is new among the runs. `epoch` is another one when the meeting place has lost its memory; while it is `learning` it lets nobody
    in. `changes` are (key, text): that of an open run, or "" and the generation that was closed. `more`: not all of it fitted.
    """

    epoch: str
    learning: bool
    number: int
    more: bool
    changes: tuple[tuple[str, str, str], ...]


Status = Literal["in", "told", "state", "opened", "open", "closed", "full", "learning", "unknown", "other", "stale", "used"]


class Part(Struct, frozen=True, gc=False):
    """What one pod has said of a run. What it holds counts while it is heard of (`is_live`)."""

    pod: str
    is_live: bool
    text: str


class Heard(Struct, frozen=True, gc=False):
    """The answer to one word on one run.

    `in`: let in, at `version`. `told`: taken down. `state`: nothing was done, this is how it stands: `named` steps were made, the one
    asked about is among them or not, and what each pod has said; `steps` if they were asked for. `opened`, or `open` already with `text`,
    as news `number`; `closed`; `full`: too many are open; `learning` for `number` ms; `unknown`; `other`: a later run of this name is
    open, with `text`; `stale`: a later word was heard, `number`; `used`: not idle, but `number` ms ago.
    """

    status: Status
    version: int = 0
    number: int = 0
    text: str = ""
    is_again: bool = False
    named: int = 0
    parts: tuple[Part, ...] = ()
    steps: tuple[str, ...] = ()
