"""Who asks: names within bounds, and a trace only from a real traceparent."""

import pytest

from sidecar.errors import InvalidRequest
from sidecar.stages.identify import identify
from tests.unit.fakes import Bench

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize(
    ("traceparent", "trace_id"),
    [
        (f"00-{TRACE}-00f067aa0ba902b7-01", TRACE),
        (f"cc-{TRACE}-00f067aa0ba902b7-01-what-comes-later", TRACE),
        ("", ""),
        (f"00-{TRACE[:-1]}z-00f067aa0ba902b7-01", ""),
        (f"00-{TRACE.upper()}-00f067aa0ba902b7-01", ""),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", ""),
        (f"00-{TRACE}-00f067aa0ba902b7", ""),
        (f"00-{TRACE}-xxxxxxxxxxxxxxxx-01", ""),
    ],
)
def test_trace_id_of_a_traceparent(traceparent, trace_id):
    bench = Bench()
    call = bench.call()
    call.metadata = {"traceparent": traceparent}
    identify(bench.engine, call)
    assert call.trace_id == trace_id


@pytest.mark.parametrize(("model", "told"), [("m" * 257, "257 bytes"), ("가" * 90, "270 bytes"), ("vllm/a\nb", "printable")])
def test_a_models_name_is_short_and_printable(model, told):
    bench = Bench()
    with pytest.raises(InvalidRequest, match=told) as caught:
        identify(bench.engine, bench.call(model=model))
    assert caught.value.field == "model"
    assert len(caught.value.message) < 300
