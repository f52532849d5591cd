"""What the figures of OpenAI's format come to, whatever they are."""

import json

import pytest

from sidecar.providers.openai_reply import reply


def usage(**figures):
    answer = {"choices": [{"index": 0, "message": {"content": "hello"}, "finish_reason": "stop"}], "usage": figures}
    said = reply(json.dumps(answer).encode())
    assert (said.text, said.finish) == ("hello", "stop")
    return said.usage


@pytest.mark.parametrize(
    ("prompt", "completion", "details", "expected"),
    [
        (10, 5, {}, (10, 0, 5)),
        (10, 5, {"cached_tokens": 4}, (6, 4, 5)),
        (10, 5, {"cached_tokens": 40}, (0, 40, 5)),
        (-5, 5, {}, (-5, 0, 5)),  # left for billing to see
        (10, -5, {}, (10, 0, -5)),
        (10, 5, {"cached_tokens": -4}, (14, -4, 5)),
    ],
)
def test_figures_that_cannot_be_true_do_not_cost_a_good_answer(prompt, completion, details, expected):
    found = usage(prompt_tokens=prompt, completion_tokens=completion, prompt_tokens_details=details)
    assert (found.input_tokens, found.cached_input_tokens, found.output_tokens) == expected
