"""Metrics and log of real calls through the pipeline: names, labels, figures; never content."""

import json

import pytest
from prometheus_client.exposition import generate_latest

from sidecar import errors
from sidecar.call import Chunk
from sidecar.observe import Log
from sidecar.observe.recent import Recent
from tests.unit.fakes import DONE, Bench, FakeProvider, caller

WHERE = 'model="{}",node="react_agent",provider="{}",service="core"'
GPT = WHERE.format("gpt-4o", "openai")


async def exposition(bench):
    return generate_latest(bench.engine.meter.metrics.registry).decode()


async def test_good_call_is_counted_with_tokens_and_cost():
    bench = Bench()
    await bench.run()
    text = await exposition(bench)
    assert f'llm_request_total{{{GPT},status="ok"}} 1.0' in text
    assert f"llm_request_duration_seconds_count{{{GPT}}} 1.0" in text
    assert f"llm_first_token_seconds_count{{{GPT}}} 1.0" in text
    assert f'llm_token_usage_total{{direction="in",{GPT}}} 10.0' in text
    assert f'llm_token_usage_total{{direction="out",{GPT}}} 5.0' in text
    assert f"llm_cost_nano_usd_total{{{GPT}}} 75000.0" in text
    assert f"llm_cost_daily_usd{{{GPT}}} 7.5e-05" in text
    assert f"llm_error_rate{{{GPT}}} 0.0" in text
    assert 'llm_circuit_breaker_state{model="gpt-4o",provider="openai",service="core"} 0.0' in text


async def test_fallback_and_failure_are_counted():
    bench = Bench([(errors.ProviderQuotaExhausted("q"),)])
    await bench.run()
    claude = WHERE.format("claude-sonnet-4-6", "anthropic")
    assert f"llm_fallback_total{{{claude}}} 1.0" in await exposition(bench)
    bench = Bench([(errors.ProviderRejected("r"),)])
    with pytest.raises(errors.ProviderRejected):
        await bench.run()
    text = await exposition(bench)
    assert f'llm_request_total{{{GPT},status="PROVIDER_REJECTED"}} 1.0' in text
    assert f"llm_error_rate{{{GPT}}} 1.0" in text


async def test_callers_mistake_is_no_error_rate():
    bench = Bench()
    with pytest.raises(errors.InvalidRequest):
        await bench.run(temperature=9.0)
    assert "llm_error_rate{" in await exposition(bench)
    assert "} 1.0\n# HELP llm_cost_daily" not in await exposition(bench)


async def test_names_that_callers_invent_make_no_new_series():
    bench = Bench()
    for number in range(50):
        await bench.run(caller=caller(f"svc{number}.node{number}"))
    text = await exposition(bench)
    assert "svc" not in text
    assert 'service="other"' in text


async def test_models_that_callers_invent_make_no_new_series():
    bench = Bench(SIDECAR_PROVIDERS__VLLM__BASE_URL="http://127.0.0.1:1/v1", MODEL_RAG_ANSWER="vllm/ours")
    bench.engine.providers["vllm"] = FakeProvider("vllm", (Chunk(text="hi"), DONE))
    await bench.run(model="vllm/ours")
    before = len((await exposition(bench)).splitlines())
    for number in range(5_000):
        await bench.run(model=f"vllm/invented{number}", caller=caller("core.react_agent", tenant=f"t{number}"))
    await bench.run(model="vllm/ours")
    text = await exposition(bench)
    assert "invented" not in text
    assert f'llm_request_total{{{WHERE.format("other", "vllm")},status="ok"}} 5000.0' in text
    assert f'llm_request_total{{{WHERE.format("vllm/ours", "vllm")},status="ok"}} 2.0' in text
    assert 'llm_circuit_breaker_state{model="ours",provider="vllm",service="core"} 0.0' in text
    assert len(text.splitlines()) < 2 * before
    assert len(bench.engine.breakers.states(0)) <= 1_000


async def test_log_line_has_the_figures_and_no_content(capfdbinary):
    bench = Bench([(Chunk(text="SECRET ANSWER"), DONE)])
    bench.engine.meter.log._least = 0
    await bench.run(prompt_name="p", prompt_version="2")
    bench.engine.meter.log.flush()
    out = capfdbinary.readouterr().err
    line = json.loads(out.splitlines()[-1])
    assert line["status"] == "ok"
    assert line["model"] == "gpt-4o"
    assert (line["input_tokens"], line["output_tokens"], line["cost_nano_usd"]) == (10, 5, 75_000)
    assert line["prompt_name"] == "p"
    assert b"SECRET" not in out
    assert b"hello" not in out


async def test_content_is_logged_only_where_settings_ask_for_it(capfdbinary):
    bench = Bench([(Chunk(text="the answer"), DONE)])
    log = Log("info", content=True)
    bench.engine.meter.log = log
    await bench.run()
    log.flush()
    line = json.loads(capfdbinary.readouterr().err.splitlines()[-1])
    assert line["prompt"] == ["hello"]
    assert line["answer"] == "the answer"


async def test_defect_is_logged_with_its_place_and_without_its_text(capfdbinary):
    bench = Bench([(ValueError("SECRET"),)])
    bench.engine.meter.log._least = 0
    with pytest.raises(errors.InternalError):
        await bench.run()
    bench.engine.meter.log.flush()
    out = capfdbinary.readouterr().err
    line = json.loads(out.splitlines()[-1])
    assert "fakes.py" in line["raised_at"][-1]
    assert b"SECRET" not in out


def test_recent_forgets_after_five_minutes_and_at_midnight():
    recent, where = Recent(), ("s", "n", "p", "m")
    recent.add(where, failed=True, nano_usd=5, unix_s=86_400 * 10 + 60)
    recent.add(where, failed=False, nano_usd=5, unix_s=86_400 * 10 + 120)
    assert recent.error_rates(86_400 * 10 + 130) == {where: 0.5}
    assert recent.error_rates(86_400 * 10 + 60 + 5 * 60) == {where: 0.0}
    assert recent.error_rates(86_400 * 10 + 1000) == {}
    assert recent.cost_today(86_400 * 11 - 1) == {where: 10}
    assert recent.cost_today(86_400 * 11) == {}
    recent.add(where, failed=False, nano_usd=1, unix_s=86_400 * 11)
    assert recent.cost_today(86_400 * 11 + 5) == {where: 1}
