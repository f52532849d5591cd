"""`sidecar ask` and `sidecar check` as a person runs them."""

from __future__ import annotations

import asyncio
import json
import os
import sys

import pytest

from tests.fakes.receivers import Hooks, Post
from tests.fakes.running import ROOT, free_port, provider_tables
from tests.fakes.script import Fail, Say


async def sidecar_command(*words: str, environ: dict[str, str] | None = None) -> tuple[int, str, str]:
    clean = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG", "VIRTUAL_ENV")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sidecar", *words, cwd=ROOT, env=clean | (environ or {}),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("flags", [(), ("--stream",)])
async def test_ask(sidecar, upstream, fresh, flags):
    model = fresh("openai")
    upstream.on(model, Say(pieces=("Guten ", "Tag")))
    status, out, err = await sidecar_command("ask", *flags, "--target", sidecar.target, "--model", model, "Wie sagt man?")
    assert (status, err) == (0, "")
    answer, summary = out.strip().splitlines()
    assert answer == "Guten Tag"
    assert summary == f"[openai/{model}: 11 tokens in, 7 out, 0.000039000 USD]"


async def test_ask_for_a_node(sidecar):
    status, out, _ = await sidecar_command("ask", "--node", "flow.chain", "--target", sidecar.target, "Hm?")
    assert status == 0
    assert "compatible/compatible-default" in out


@pytest.mark.parametrize("flags", [(), ("--stream",)])
async def test_ask_tells_a_failure_in_one_line(sidecar, upstream, fresh, flags):
    model = fresh("openai")
    upstream.on(model, Fail(400, "no poems, please"))
    status, _, err = await sidecar_command("ask", *flags, "--target", sidecar.target, "--model", model, "A poem!")
    assert status == 1
    (line,) = err.strip().splitlines()
    assert "PROVIDER_REJECTED" in line
    assert "no poems" in line


async def test_ask_nobody():
    status, _, err = await sidecar_command("ask", "--target", f"127.0.0.1:{free_port()}", "Anybody?")
    assert status == 1
    (line,) = err.strip().splitlines()
    assert "sidecar serve" in line


async def test_check_live_asks_every_provider(upstream, tmp_path):
    settings = tmp_path / "settings.toml"
    settings.write_text(provider_tables(upstream.url, "openai", "anthropic", "google", "ollama"))
    before = len(upstream.exchanges)
    status, out, err = await sidecar_command("check", "--live", "--settings", str(settings))
    assert status == 0, out + err
    for provider in ("openai", "anthropic", "google", "ollama"):
        assert provider in out
    assert {e.wire.__name__ for e in upstream.exchanges[before:]} == {"OpenAI", "Anthropic", "Google", "Ollama"}


async def test_check_live_names_a_provider_that_refuses(upstream, tmp_path):
    settings = tmp_path / "settings.toml"
    settings.write_text('[providers.local]\nmodel = "shy"\n' + f'base_url = "{upstream.url}/compatible/v1"\n')
    upstream.on("shy", Fail(401))
    status, out, err = await sidecar_command("check", "--live", "--settings", str(settings))
    assert status == 1
    assert "local" in out + err
    assert "Traceback" not in out + err


async def test_check_as_json(upstream, tmp_path):
    settings = tmp_path / "settings.toml"
    settings.write_text(provider_tables(upstream.url, "openai"))
    status, out, _ = await sidecar_command("check", "--json", "--settings", str(settings))
    assert status == 0
    assert "anthropic" in json.dumps(json.loads(out))


async def test_production_does_not_start_without_fallbacks(upstream, tmp_path):
    settings = tmp_path / "settings.toml"
    ports = f'listen = "127.0.0.1:{free_port()}"\nops_listen = "127.0.0.1:{free_port()}"\n'
    settings.write_text(f'[server]\n{ports}[profile]\nname = "production"\n' + provider_tables(upstream.url, "openai"))
    status, out, err = await sidecar_command("serve", "--settings", str(settings))
    assert status == 2
    assert "core.process_definition" in err
    assert "Traceback" not in out + err
    status, out, err = await sidecar_command("check", "--settings", str(settings))
    assert status == 1
    assert "core.process_definition" in out + err


async def test_alerts_test_tries_everybody_and_says_who_did_not_take_it(tmp_path):
    settings = tmp_path / "settings.toml"
    async with Hooks() as hooks:
        with Post() as post:
            settings.write_text(
                f'[alerts]\nchat_url = "{hooks.url}/hunter2"\nwebhook_url = "{hooks.url}/program"\nwebhook_key = "0123456789abcdef"\n'
                f'[alerts.mail]\nserver = "{post.address}"\nencryption = "none"\nsender = "a@example.com"\nrecipients = ["b@example.com"]\n'
            )
            status, out, err = await sidecar_command("alerts", "test", "--settings", str(settings))
            assert (status, out, err) == (0, "chat    took it\nwebhook took it\nmail    took it\n", "")
            assert "this is a trial" in hooks.at("/hunter2")[0].json["text"]
            assert hooks.at("/program")[0].json["data"]["kind"] == "trial"
            assert "this is a trial" in post.letters[0].message["Subject"]
            hooks.answers = [(403, {}), (403, {})]
            status, out, err = await sidecar_command("alerts", "test", "--settings", str(settings))
            assert (status, out, err) == (1, "chat    answers with HTTP 403\nwebhook answers with HTTP 403\nmail    took it\n", "")


async def test_alerts_test_without_anybody_to_tell(tmp_path):
    status, _, err = await sidecar_command("alerts", "test")
    assert status == 2
    assert err == "sidecar: settings: alerts: names nobody to tell, expected alerts.chat_url, alerts.webhook_url or alerts.mail.server\n"


async def test_unknown_command():
    status, _, err = await sidecar_command("dance")
    assert status == 2
    assert "Traceback" not in err


async def test_prices_are_shown_and_compared(tmp_path):
    settings = tmp_path / "settings.toml"
    settings.write_text('[models.gpt-4o]\ninput = "5.00"\n')
    status, out, err = await sidecar_command("prices", "--json", "gpt-4o-mini", environ={"SIDECAR_SETTINGS": str(settings)})
    assert (status, json.loads(out)["prices"][0]["input"]) == (0, 150_000)
    assert "Traceback" not in err
    status, out, _ = await sidecar_command("prices", "--compare", "--settings", str(settings))
    assert status == 1
    assert "gpt-4o  input            -  5.00    2.50  2.000" in out
    status, _, err = await sidecar_command("prices", "gpt-5o")
    assert status == 2
    assert "gpt-4o" in err
