"""Providers that fail by script: what each does at a moment of virtual time is drawn before the simulation begins."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from dataclasses import dataclass
from random import Random

from sidecar.call import Chunk, Head, Usage, Vectors
from sidecar.errors import (
    ProviderAuthFailed,
    ProviderContextExceeded,
    ProviderGarbled,
    ProviderModelUnknown,
    ProviderQuotaExhausted,
    ProviderRateLimited,
    ProviderRejected,
    ProviderUnavailable,
    StreamCut,
)
from tests.unit.fakes import FEATURES

FOR_EVER_S = 1e6

# What a provider may do with one question, and how often in each mood. `ok`: a whole answer.
MOODS = {
    "well": {"ok": 95, "rejected": 2, "too_long": 1, "cut": 1, "unavailable": 1},
    "down": {"unavailable": 1},
    "crawling": {"ok": 8, "trickle": 1, "silent": 1},
    "limited": {"limited": 5, "ok": 1},
    "cutting": {"cut": 4, "broken": 2, "unfinished": 2, "ok": 1},
    "raving": {"garbled": 2, "empty": 2, "bad_schema": 2, "unfinished": 1, "ok": 1},
    "silent": {"silent": 3, "headed": 1, "stall": 1},
    "flapping": {"ok": 1, "unavailable": 1},
    "broke": {"quota": 1},
    "locked": {"auth": 1},
    "unknown": {"no_model": 1},
    "odd": {"ok": 5, "defect": 1, "rejected": 2, "silent": 1, "empty": 1},
}
_WEIGHTS = {"well": 8, "down": 4, "crawling": 2, "limited": 3, "cutting": 3, "raving": 1, "silent": 3, "flapping": 2}
_WEIGHTS |= {"broke": 1, "locked": 1, "unknown": 0.5, "odd": 0.5}


@dataclass(frozen=True)
class Phase:
    """From this second on."""

    since: float
    mood: str
    latency_s: float


class Timeline:
    """The moods of one provider's endpoint over the whole simulation."""

    def __init__(self, random: Random, seconds: float) -> None:
        self.phases = [Phase(0.0, random.choices(tuple(_WEIGHTS), tuple(_WEIGHTS.values()))[0], self._latency(random))]
        at = 0.0
        while (at := at + random.expovariate(4 / seconds)) < seconds:
            mood = random.choices(tuple(_WEIGHTS), tuple(_WEIGHTS.values()))[0]
            self.phases.append(Phase(at, mood, self._latency(random)))
        if random.random() < 0.3:  # a good one, so that much is answered too
            self.phases = [Phase(0.0, "well", self._latency(random))]

    def _latency(self, random: Random) -> float:
        return 10 ** random.uniform(-2.5, -0.3)

    def at(self, second: float) -> Phase:
        return self.phases[bisect_right([phase.since for phase in self.phases], second) - 1]


class Scripted:
    """One endpoint of a provider, `name` as settings call it (`openai`, `openai#eu`); `watch` sees every question begin and end."""

    features = FEATURES

    def __init__(self, name, timeline, random, watch, loop):
        self.name = name
        self.timeline = timeline
        self._random = random
        self._watch = watch
        self._loop = loop

    async def generate(self, ask, emit):
        async def play(one, deed, pause):
            async def say(chunks):
                one.has_head = True
                one.has_begun = one.has_begun or any(chunk.text for chunk in chunks)
                one.heard_at = self._loop.seconds
                await emit(chunks)
                one.heard_at = self._loop.seconds  # its reader may have kept it waiting

            await self._generate(one, deed, pause, ask, say)

        await self._answer(ask, play)

    async def embed(self, ask):
        return await self._answer(ask, lambda one, deed, pause: self._embed(one, deed, pause, ask))

    async def check(self):
        pass

    async def close(self):
        pass

    async def _answer(self, ask, play):
        random = self._random
        phase = self.timeline.at(self._loop.seconds)
        moods = MOODS[phase.mood]
        deed = random.choices(tuple(moods), tuple(moods.values()))[0]
        slowly = 20 if phase.mood == "crawling" else 1
        one = self._watch.begin(f"{self.name}/{ask.model}", deed)
        try:
            return await play(one, deed, lambda: asyncio.sleep(phase.latency_s * slowly * random.lognormvariate(0, 0.5)))
        except asyncio.CancelledError:
            if random.random() < 0.2:  # a connection takes a moment to close
                await asyncio.sleep(random.uniform(0, 0.03))
            raise
        finally:
            self._watch.end(one)

    async def _generate(self, one, deed, pause, ask, emit):
        random = self._random
        if deed not in ("silent", "headed"):
            await pause()
        self._fail_at_once(one, deed)
        if (ask.stream and random.random() < 0.5) or deed == "headed":
            await emit((Chunk(head=Head("r"), model=ask.model),))
        if deed in ("silent", "headed"):
            await asyncio.sleep(FOR_EVER_S)
        await (self._stream if ask.stream else self._unary)(one, deed, pause, ask, emit)

    def _fail_at_once(self, one, deed):
        random = self._random
        if deed == "limited":
            one.retry_after_ms = random.choice((None, None, 40, 500, 2_000, 10_000, 60_000))
            raise ProviderRateLimited("too many", status=429, retry_after_ms=one.retry_after_ms)
        if deed == "unavailable":
            one.retry_after_ms = random.choice((None, None, None, None, 300, 5_000))
            raise ProviderUnavailable("down", status=503, retry_after_ms=one.retry_after_ms)
        if deed == "quota":
            raise ProviderQuotaExhausted("out of credit", retry_after_ms=random.choice((None, 3_600_000)))
        if deed == "defect":
            raise ValueError("a defect in a provider's file")
        found = _ERRORS.get(deed)
        if found is not None:
            raise found(deed)

    async def _unary(self, one, deed, pause, ask, emit):
        text, finish = self._words(one, deed, ask, 1)[0], self._finish()
        if deed == "stall":
            await asyncio.sleep(FOR_EVER_S)
        if deed in ("cut", "broken"):
            raise ProviderUnavailable("the connection was lost")
        last = deed != "unfinished"
        one.say(text, finish=finish, whole=last)
        await emit((Chunk(text=text, finish=finish, raw_finish=finish, usage=self._usage(one), last=last),))

    async def _stream(self, one, deed, pause, ask, emit):
        random = self._random
        pieces = self._words(one, deed, ask, random.choice((1, 2, 3, 5, 12)))
        if random.random() < 0.3:
            await emit((Chunk(usage=Usage(input_tokens=7)),))  # as some do: what goes in first, what comes out last
        stop_at = random.randrange(len(pieces)) if deed in ("cut", "broken", "stall", "trickle") else -1
        for number, piece in enumerate(pieces):
            if number == stop_at:
                await self._stop(deed)
            one.say(piece)
            await emit((Chunk(text=piece),))
            if random.random() < 0.5:
                await pause()
        finish = self._finish()
        if deed == "unfinished":
            await emit(random.choice(((), (Chunk(finish=finish, raw_finish=finish),))))
            return
        usage = self._usage(one)
        one.say("", finish=finish, whole=True)
        await emit((Chunk(finish=finish, raw_finish=finish, usage=usage), Chunk(last=True)))

    async def _stop(self, deed):
        if deed == "cut":
            raise StreamCut("cut")
        if deed == "broken":
            raise random_error(self._random)
        await asyncio.sleep(FOR_EVER_S if deed == "stall" else self._random.uniform(0.5, 8))

    def _words(self, one, deed, ask, count):
        """Every piece is there only once in all the simulation, so that none can come twice or in another answer unseen."""
        if deed == "empty":
            return [""]
        if ask.response_format is not None:
            one.fits = deed != "bad_schema"
            value = f'"{one.number}"' if one.fits else str(one.number)
            return [f'{{"answer": {value}}}']
        return [f"<{one.number}.{number}>" for number in range(count)]

    def _finish(self):
        return self._random.choices(("stop", "length", "content_filter", "refusal"), (20, 2, 1, 1))[0]

    def _usage(self, one):
        one.usage = Usage(5, 0, 0, 0, self._random.randint(1, 30), 0) if self._random.random() < 0.8 else None
        return one.usage

    async def _embed(self, one, deed, pause, ask):
        if deed in ("silent", "headed", "stall"):
            await asyncio.sleep(FOR_EVER_S)
        await pause()
        self._fail_at_once(one, deed)
        if deed in ("garbled", "broken", "cut"):
            raise ProviderUnavailable("the connection was lost")
        vectors = [[float(one.number), float(number)] for number in range(len(ask.inputs))]
        if deed in ("unfinished", "bad_schema", "empty"):
            vectors.pop()
        else:
            one.whole = True
        one.vectors = vectors
        one.usage = Usage(3)
        return Vectors(vectors, one.usage)


def random_error(random):
    return random.choice((ProviderUnavailable, ProviderGarbled, ProviderRateLimited))("in the middle of an answer")


_ERRORS = {
    "garbled": ProviderGarbled,
    "auth": ProviderAuthFailed,
    "rejected": ProviderRejected,
    "no_model": ProviderModelUnknown,
    "too_long": ProviderContextExceeded,
}
