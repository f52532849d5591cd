"""Which prompts are marked to be kept by their provider, and where: only what was sent before, a short while ago."""

from __future__ import annotations

import pytest

from sidecar import errors
from sidecar.call import Chunk, Usage
from sidecar.request import GenerateRequest, Message, Text, Tool
from tests.unit.fakes import DONE, Bench, caller

MODEL = "claude-sonnet-4-6"
RULES = "Answer as the rules of the house have it. " * 200  # some 2,000 tokens
SHORT = "Be brief."
MINUTE_NS = 60_000_000_000


class Clocked(Bench):
    """A bench whose prefixes grow old when the test says so."""

    def __init__(self, **environ):
        super().__init__(**environ)
        self.later_ns = 0
        policy, of, sent = self.engine.prefixes, self.engine.prefixes.of, self.engine.prefixes.sent
        policy.of = lambda call, candidate, ask, now_ns: of(call, candidate, ask, now_ns + self.later_ns)
        policy.sent = lambda prompt, now_ns: sent(prompt, now_ns + self.later_ns)

    async def marks(self, *turns, system=RULES, tenant="", node="core.react_agent", **fields):
        """Where the prompt of this conversation is marked. A turn is a text, or several texts of one message."""
        messages = [Message("system", (Text(system),))] if system else []
        for number, turn in enumerate(turns):
            texts = turn if isinstance(turn, tuple) else (turn,)
            messages.append(Message("assistant" if number % 2 else "user", tuple(map(Text, texts))))
        request = GenerateRequest(caller=caller(node, tenant=tenant), model=MODEL, messages=tuple(messages), **fields)
        self.last = await self.run(request)
        return self.anthropic.asks[-1].cache_marks


async def test_what_is_sent_once_is_not_marked_and_what_comes_again_is():
    bench = Clocked()
    assert await bench.marks("One?") == ()
    assert await bench.marks("Two?") == (0,)  # behind the system text
    assert await bench.marks("Three?") == (0,)
    assert await bench.marks("Three?", system=RULES + "!") == ()


async def test_what_is_too_short_is_not_marked():
    bench = Clocked()
    for _ in range(3):
        assert await bench.marks("One?", system=SHORT) == ()
    assert len(bench.engine.prefixes) == 0


async def test_after_five_minutes_without_use_it_is_a_new_prompt():
    bench = Clocked()
    await bench.marks("One?")
    bench.later_ns += 4 * MINUTE_NS
    assert await bench.marks("Two?") == (0,)
    bench.later_ns += 4 * MINUTE_NS
    assert await bench.marks("Three?") == (0,)  # it was used in between
    bench.later_ns += 5 * MINUTE_NS
    assert await bench.marks("Four?") == ()


async def test_a_conversation_is_kept_as_it_grows():
    bench = Clocked()
    assert await bench.marks("One?") == ()
    assert await bench.marks("One?", "Yes.", "Two?") == (0, 1, 3)  # the rules, what was sent before, and all of it
    assert await bench.marks("One?", "Yes.", "Two?", "No.", "Three?") == (0, 3, 5)
    assert await bench.marks("Another?") == (0,)


async def test_a_document_is_kept_and_the_question_behind_it_is_not():
    bench = Clocked()
    assert await bench.marks((RULES, "What is it?"), system=SHORT) == ()
    assert await bench.marks((RULES, "Who wrote it?"), system=SHORT) == (1,)
    assert await bench.marks((RULES, "When?"), system=SHORT) == (1,)


async def test_examples_are_kept_and_what_follows_is_not():
    bench = Clocked()
    for turn in ("One?", "Two?", "Three?"):
        marks = await bench.marks("Say a.", "a", "Say b.", "b", turn)
    assert marks == (0, 4)


async def test_tools_are_kept_where_the_system_text_changes():
    bench = Clocked()
    tools = (Tool("find", RULES), Tool("keep", "Keeps."))
    assert await bench.marks("One?", system="It is Monday.", tools=tools) == ()
    assert await bench.marks("One?", system="It is Tuesday.", tools=tools) == (-1,)
    assert await bench.marks("One?", system="It is Friday.", tools=tools[:1]) == ()


async def test_neither_tenants_nor_nodes_learn_of_each_other():
    bench = Clocked()
    await bench.marks("One?", tenant="a")
    assert await bench.marks("One?", tenant="b") == ()
    assert await bench.marks("One?", tenant="a", node="core.mcp_tool") == ()
    assert await bench.marks("One?", tenant="a") != ()


async def test_where_callers_place_marks_we_do_not():
    bench = Clocked()
    own = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    for _ in range(3):
        assert await bench.marks("One?", provider_options=own) == ()
    assert len(bench.engine.prefixes) == 0


@pytest.mark.parametrize(
    ("environ", "node", "is_on"),
    [
        ({"SIDECAR_SERVICES__CORE__PROMPT_CACHING": "off"}, "core.react_agent", False),
        ({"SIDECAR_SERVICES__CORE__PROMPT_CACHING": "off"}, "oracle.summary", True),
        ({"SIDECAR_NODES__CORE__REACT_AGENT__PROMPT_CACHING": "off"}, "core.react_agent", False),
        ({"SIDECAR_NODES__CORE__REACT_AGENT__PROMPT_CACHING": "off"}, "core.mcp_tool", True),
        (
            {"SIDECAR_SERVICES__CORE__PROMPT_CACHING": "off", "SIDECAR_NODES__CORE__REACT_AGENT__PROMPT_CACHING": "auto"},
            "core.react_agent",
            True,
        ),
        ({"SIDECAR_MODELS__CLAUDE_SONNET_4_6__CACHE_MIN_TOKENS": "4096"}, "core.react_agent", False),
    ],
)
async def test_service_node_and_model_say_whether(environ, node, is_on):
    bench = Clocked(**environ)
    await bench.marks("One?", node=node)
    assert bool(await bench.marks("Two?", node=node)) is is_on


async def test_a_prompt_that_was_refused_was_not_kept():
    bench = Clocked()
    bench.anthropic.scripts[:] = [(errors.ProviderRejected("no"),), (Chunk(text="a"), DONE)]
    with pytest.raises(errors.ProviderRejected):
        await bench.marks("One?")
    assert await bench.marks("One?") == ()
    assert await bench.marks("One?") != ()


async def test_halves_of_characters_are_no_defect():
    bench = Clocked()
    for _ in range(2):
        assert await bench.marks("\ud800?") == ()


async def test_memory_is_bounded():
    bench = Clocked()
    bench.engine.prefixes._most = 10
    for number in range(20):
        await bench.marks(f"{number}?", system=f"{number} {RULES}")
    assert len(bench.engine.prefixes) == 10


async def test_of_a_long_conversation_only_both_ends_are_remembered():
    bench = Clocked()
    turns = [f"Turn {number}" for number in range(61)]
    await bench.marks(*turns)
    assert len(bench.engine.prefixes) == 16
    assert await bench.marks(*turns, "Yes.", "More?") == (0, 61, 63)


async def test_a_prompt_that_may_be_kept_is_held_at_that_price_and_what_it_cost_is_exact():
    bench = Clocked()
    await bench.marks("One?")
    tokens = bench.last.candidates[0].input_tokens
    limit = bench.last.candidates[0].max_output_tokens
    assert bench.last.max_nano_usd == tokens * 3_750 + limit * 15_000  # 3.75 USD per million, written for five minutes
    write = Usage(input_tokens=10, cached_input_tokens=0, cache_write_tokens=2_000, output_tokens=5)
    read = Usage(input_tokens=10, cached_input_tokens=2_000, cache_write_tokens=0, output_tokens=5)
    bench.anthropic.scripts[:] = [(Chunk(text="a", usage=usage, finish="stop", last=True),) for usage in (write, write, read)]
    await bench.marks("Two?")
    assert bench.last.nano_usd == 10 * 3_000 + 2_000 * 3_750 + 5 * 15_000
    await bench.marks("Three?")
    assert bench.last.nano_usd == 10 * 3_000 + 2_000 * 300 + 5 * 15_000
    off = Clocked(SIDECAR_SERVICES__CORE__PROMPT_CACHING="off")
    await off.marks("One?")
    assert off.last.max_nano_usd == tokens * 3_000 + limit * 15_000
