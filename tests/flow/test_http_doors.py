"""Who gets in, by either door: tokens, certificates, origins; and that secrets stay where they are."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
import pytest_asyncio
import trustme

from sidecar.v1 import llm_pb2 as pb
from sidecar.v1 import llm_pb2_grpc, ops_pb2, ops_pb2_grpc
from tests.conftest import usual_tables
from tests.fakes.running import Sidecar, free_port, serving, spawn, start
from tests.fakes.upstream import Upstream
from tests.flow.reading import failed
from tests.flow.test_commands import sidecar_command

ORACLE, WEAVER, OPERATOR = "oracle-token-4f1c", "weaver-token-77aa", "operators-token-0c3e"


def hashed(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


TOKENS = f"""
[auth]
ops_sha256 = "{hashed(OPERATOR)}"
[auth.tokens.oracle]
sha256 = "{hashed(ORACLE)}"
tenant = "acme"
service = "oracle"
[auth.tokens.weaver]
sha256 = "{hashed(WEAVER)}"
"""


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def ask(sidecar: Sidecar, body: dict[str, Any] | None = None, path: str = "/v1/generate", **headers: str) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(sidecar.http_url + path, json=body or {"prompt": "hi", "model": "echo/echo"}, headers=headers) as response,
    ):
        return response.status, await (response.json() if response.content_type == "application/json" else response.text())


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guarded(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sidecar]:
    """A sidecar that lets in who has one of the tokens."""
    async with serving(tmp_path_factory.mktemp("guarded"), usual_tables(upstream.url) + TOKENS) as running:
        yield running


# --- tokens -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": ORACLE}, bearer("wrong"), bearer(hashed(ORACLE)), bearer(OPERATOR), {"x-api-key": "no"}]
)
async def test_without_a_known_token_nobody_gets_in(guarded, headers):
    for path in ("/v1/generate", "/v1/stream", "/v1/count_tokens", "/v1/nothing"):
        status, said = await ask(guarded, path=path, **headers)
        assert (status, said["error"]["reason"], said["error"]["code"]) == (401, "UNAUTHENTICATED", "UNAUTHENTICATED")
    metadata = tuple(headers.items())
    got = await failed(guarded.llm.Generate(pb.GenerateRequest(prompt="hi", model="echo/echo"), metadata=metadata))
    assert (got.code, got.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    got = await failed(guarded.llm.CountTokens(pb.CountTokensRequest(generate=pb.GenerateRequest(prompt="hi")), metadata=metadata))
    assert got.reason == "UNAUTHENTICATED"


async def test_token_says_who_asks(guarded, upstream):
    operator = tuple(bearer(OPERATOR).items())
    model = "compatible-default"

    async def used(tenant: str) -> int:
        asked = ops_pb2.ExplainRequest(generate=pb.GenerateRequest(prompt="?", model=model, caller=pb.Caller(tenant=tenant)))
        explained = await guarded.ops.Explain(asked, metadata=operator)
        return sum(view.used_nano_usd for view in explained.accounts if view.name.startswith(f"tenant:{tenant}:"))

    before = await used("acme")
    status, said = await ask(guarded, {"prompt": "hi", "model": model}, **bearer(ORACLE))
    assert status == 200
    first = int(said["cost"]["nano_usd"])
    assert await used("acme") - before == first > 0
    request = pb.GenerateRequest(prompt="hi", model=model, caller=pb.Caller(tenant="acme", node="oracle.summary"))
    reply = await guarded.llm.Generate(request, metadata=tuple(bearer(ORACLE).items()))
    assert await used("acme") - before == first + reply.cost.nano_usd
    status, said = await ask(guarded, {"prompt": "hi", "model": model}, **{"x-api-key": WEAVER, "x-sidecar-tenant": "globex"})
    assert status == 200
    assert await used("globex") == int(said["cost"]["nano_usd"])
    assert await used("default") == 0


@pytest.mark.parametrize(
    ("caller", "headers", "field"),
    [
        ({"tenant": "globex"}, {}, "caller.tenant"),
        ({}, {"x-sidecar-tenant": "globex"}, "caller.tenant"),
        ({"tenant": "acme"}, {"x-sidecar-tenant": "globex"}, "caller.tenant"),
        ({"service": "core"}, {}, "caller.service"),
        ({"node": "core.mcp_tool"}, {}, "caller.node"),
    ],
)
async def test_call_may_not_say_otherwise_than_its_token(guarded, caller, headers, field):
    status, said = await ask(guarded, {"prompt": "hi", "model": "echo/echo", "caller": caller}, **bearer(ORACLE), **headers)
    assert status in (400, 403)
    assert said["error"]["field"] == field
    metadata = tuple((bearer(ORACLE) | headers).items())
    got = await failed(guarded.llm.Generate(pb.GenerateRequest(prompt="hi", caller=pb.Caller(**caller)), metadata=metadata))
    assert got.field == field
    assert got.code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT)


async def test_operators_have_a_token_of_their_own(guarded):
    for headers in ({}, bearer(ORACLE), bearer("wrong")):
        got = await failed(guarded.ops.GetStatus(ops_pb2.GetStatusRequest(), metadata=tuple(headers.items())))
        assert got.code == grpc.StatusCode.UNAUTHENTICATED
        got = await failed(guarded.ops.Drain(ops_pb2.DrainRequest(), metadata=tuple(headers.items())))
        assert got.reason == "UNAUTHENTICATED"
    status = await guarded.ops.GetStatus(ops_pb2.GetStatusRequest(), metadata=tuple(bearer(OPERATOR).items()))
    assert not status.draining
    assert await guarded.serving()  # health asks for nothing


async def test_operators_token_alone_leaves_calls_open(start_sidecar):
    sidecar = await start_sidecar(f'[auth]\nops_sha256 = "{hashed(OPERATOR)}"\n')
    assert (await ask(sidecar))[0] == 200
    assert (await failed(sidecar.ops.GetStatus(ops_pb2.GetStatusRequest()))).reason == "UNAUTHENTICATED"


async def test_without_an_operators_token_callers_are_no_operators(start_sidecar):
    sidecar = await start_sidecar(f'[auth.tokens.oracle]\nsha256 = "{hashed(ORACLE)}"\n')
    for headers in ({}, bearer(ORACLE)):
        got = await failed(sidecar.ops.GetStatus(ops_pb2.GetStatusRequest(), metadata=tuple(headers.items())))
        assert (got.code, got.reason) == (grpc.StatusCode.PERMISSION_DENIED, "NOT_ALLOWED")


async def test_stream_is_resumed_by_its_own_token_only(guarded, upstream):
    body = {"prompt": "hi", "model": "compatible-default"}
    status, text = await ask(guarded, body, "/v1/stream", **bearer(ORACLE), **{"x-sidecar-resume": "true"})
    assert status == 200
    event_id = text.partition("id: ")[2].partition("\n")[0]
    for token, expected in ((WEAVER, 410), (ORACLE, 200)):
        status, _ = await ask(guarded, {}, "/v1/stream", **bearer(token), **{"last-event-id": event_id})
        assert status == expected


async def test_secrets_are_told_nowhere(tmp_path, upstream):
    key = "sk-test-secret-5d41402abc"
    tables = f'[providers.openai]\napi_key = "{key}"\nbase_url = "{upstream.url}/v1"\n{TOKENS}'
    async with serving(tmp_path, tables, http='allowed_origins = ["https://a.example"]') as sidecar:
        heard = [str(await ask(sidecar, **headers)) for headers in (bearer(ORACLE), bearer("guessed-token"), {"x-api-key": ORACLE + "x"})]
        operator = tuple(bearer(OPERATOR).items())
        heard.append(str(await sidecar.ops.GetStatus(ops_pb2.GetStatusRequest(), metadata=operator)))
        heard.append(str(await sidecar.ops.ListEvents(ops_pb2.ListEventsRequest(), metadata=operator)))
        heard.append(Path(f"/proc/{sidecar.process.pid}/cmdline").read_text())  # noqa: ASYNC240
        async with aiohttp.ClientSession() as session, session.get(f"{sidecar.ops_url}/metrics") as reply:
            heard.append(await reply.text())
        limits = Path(f"/proc/{sidecar.process.pid}/limits").read_text()  # noqa: ASYNC240
        assert next(line for line in limits.splitlines() if "core file" in line).split()[4:6] == ["1", "1"]
    heard.append(sidecar.log)
    for secret in (key, ORACLE, WEAVER, OPERATOR, "guessed-token", hashed(ORACLE), hashed(OPERATOR)):
        assert not any(secret in said for said in heard), secret


@pytest.mark.parametrize("flags", [(), ("--stream",)])
async def test_ask_takes_its_token_from_the_environment(guarded, flags):
    words = ("ask", *flags, "--target", guarded.target, "--model", "echo/echo", "hi")
    status, out, _ = await sidecar_command(*words, environ={"LLM_TOKEN": ORACLE})
    assert (status, out.splitlines()[0]) == (0, "hi")
    status, _, err = await sidecar_command(*words)
    assert (status, "UNAUTHENTICATED" in err) == (1, True)


# --- browsers ---------------------------------------------------------------------------------------------------------------------

ORIGIN = "https://oracle.example.com"


async def test_no_page_may_call_unless_its_origin_is_named(start_sidecar):
    closed, opened = await start_sidecar(), await start_sidecar(http=f'allowed_origins = ["{ORIGIN}"]')
    for sidecar, origin in ((closed, ORIGIN), (opened, "https://evil.example.com"), (opened, "null"), (closed, closed.http_url)):
        async with aiohttp.ClientSession() as session:
            for method in ("POST", "OPTIONS"):
                asked = session.request(
                    method,
                    sidecar.http_url + "/v1/generate",
                    json={"prompt": "hi", "model": "echo/echo"},
                    headers={"Origin": origin, "Access-Control-Request-Method": "POST"},
                )
                async with asked as response:
                    assert response.status == 403
                    assert "http.allowed_origins" in (await response.json())["error"]["message"]
                    assert "access-control-allow-origin" not in response.headers


async def test_page_of_a_named_origin_may_call(start_sidecar):
    sidecar = await start_sidecar(http=f'allowed_origins = ["{ORIGIN}"]')
    async with aiohttp.ClientSession() as session:
        asking = {
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,x-sidecar-tenant,last-event-id,x-other",
        }
        async with session.options(sidecar.http_url + "/v1/stream", headers=asking) as response:
            assert response.status == 204
            assert response.headers["access-control-allow-origin"] == ORIGIN
            assert "POST" in response.headers["access-control-allow-methods"]
            allowed = {name.strip() for name in response.headers["access-control-allow-headers"].split(",")}
            assert {"content-type", "x-sidecar-tenant", "last-event-id", "authorization"} == allowed - {"x-other"}
        for body, status in (({"prompt": "hi", "model": "echo/echo"}, 200), ({"promt": "hi"}, 400)):
            async with session.post(sidecar.http_url + "/v1/stream", json=body, headers={"Origin": ORIGIN}) as response:
                assert response.status == status
                assert response.headers["access-control-allow-origin"] == ORIGIN
                assert response.headers["vary"] == "Origin"
                assert response.headers["access-control-expose-headers"] == "*"


# --- certificates -----------------------------------------------------------------------------------------------------------------


def write_certificate(ca: trustme.CA, folder: Path, *names: str) -> None:
    certificate = ca.issue_cert(*names)
    (folder / "tls.crt").write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    (folder / "tls.key").write_bytes(certificate.private_key_pem.bytes())


async def start_tls(folder: Path, tls: str = "", server: str = "") -> Sidecar:
    lines = f'[tls]\ncert_file = "{folder}/tls.crt"\nkey_file = "{folder}/tls.key"\n{tls}'
    sidecar = await start(folder, lines, server)
    sidecar.http_url = sidecar.http_url.replace("http:", "https:")
    async with asyncio.timeout(30), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"{sidecar.ops_url}/readyz") as reply:
                    if reply.status == 200:
                        return sidecar
            except aiohttp.ClientConnectionError:
                assert sidecar.process.returncode is None, sidecar.log
            await asyncio.sleep(0.05)


async def https(sidecar: Sidecar, context: ssl.SSLContext) -> str:
    body = {"prompt": "hi", "model": "echo/echo"}
    async with aiohttp.ClientSession() as session, session.post(sidecar.http_url + "/v1/generate", json=body, ssl=context) as reply:
        return str((await reply.json())["text"])


async def grpcs(sidecar: Sidecar, root: bytes, key: bytes | None = None, chain: bytes | None = None) -> str:
    credentials = grpc.ssl_channel_credentials(root, key, chain)
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.secure_channel(sidecar.target, credentials, options) as channel:
        stub = llm_pb2_grpc.LLMServiceStub(channel)
        return str((await stub.Generate(pb.GenerateRequest(prompt="hi", model="echo/echo"), timeout=5)).text)


def trusting(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


async def test_both_doors_speak_tls_and_take_a_new_certificate(tmp_path):
    first, second = trustme.CA(), trustme.CA()
    write_certificate(first, tmp_path, "127.0.0.1")
    sidecar = await start_tls(tmp_path)
    try:
        assert await https(sidecar, trusting(first)) == "hi"
        assert await grpcs(sidecar, first.cert_pem.bytes()) == "hi"
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await https(sidecar, trusting(second))
        with pytest.raises(aiohttp.ClientError):  # no TLS, no answer
            async with aiohttp.ClientSession() as session, session.get(sidecar.http_url.replace("https", "http")):
                pass
        (tmp_path / "tls.key").write_text("half-way")
        assert await https(sidecar, trusting(first)) == "hi"  # what cannot be read changes nothing
        assert await grpcs(sidecar, first.cert_pem.bytes()) == "hi"
        write_certificate(second, tmp_path, "127.0.0.1")
        assert await https(sidecar, trusting(second)) == "hi"
        assert await grpcs(sidecar, second.cert_pem.bytes()) == "hi"
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await https(sidecar, trusting(first))
    finally:
        assert await sidecar.stop() == 0
    assert "stays as it was" in sidecar.log
    assert "was read anew" in sidecar.log


async def test_callers_show_a_certificate_of_the_clients_authority(tmp_path):
    ours, theirs, strange = trustme.CA(), trustme.CA(), trustme.CA()
    write_certificate(ours, tmp_path, "127.0.0.1")
    theirs.cert_pem.write_to_path(tmp_path / "clients.pem")
    sidecar = await start_tls(tmp_path, f'client_ca_file = "{tmp_path}/clients.pem"\n')
    try:
        root = ours.cert_pem.bytes()
        for ca, is_let_in in ((theirs, True), (strange, False), (None, False)):
            context = trusting(ours)
            key = chain = None
            if ca is not None:
                shown = ca.issue_cert("oracle.example.com")
                shown.configure_cert(context)
                key, chain = shown.private_key_pem.bytes(), b"".join(blob.bytes() for blob in shown.cert_chain_pems)
            if is_let_in:
                assert await https(sidecar, context) == "hi"
                assert await grpcs(sidecar, root, key, chain) == "hi"
            else:
                with pytest.raises((aiohttp.ClientError, ssl.SSLError, OSError)):
                    await https(sidecar, context)
                with pytest.raises(grpc.aio.AioRpcError):
                    await grpcs(sidecar, root, key, chain)
        strange.cert_pem.write_to_path(tmp_path / "clients.pem")  # another authority from now on
        context = trusting(ours)
        strange.issue_cert("oracle.example.com").configure_cert(context)
        assert await https(sidecar, context) == "hi"
    finally:
        await sidecar.stop()


async def test_unix_socket_needs_no_certificate(tmp_path):
    write_certificate(trustme.CA(), tmp_path, "127.0.0.1")
    sidecar = await start_tls(tmp_path, server=f'socket = "{tmp_path}/s.sock"')
    try:
        async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s.sock") as channel:
            status = await ops_pb2_grpc.OpsServiceStub(channel).GetStatus(ops_pb2.GetStatusRequest(), timeout=5)
        assert status.version
    finally:
        await sidecar.stop()


@pytest.mark.parametrize("wrong", ["missing", "another key", "no certificate"])
async def test_certificate_that_is_none_stops_the_start(tmp_path, wrong):
    write_certificate(trustme.CA(), tmp_path, "127.0.0.1")
    if wrong == "missing":
        (tmp_path / "tls.key").unlink()
    elif wrong == "another key":
        (tmp_path / "tls.key").write_bytes(trustme.CA().issue_cert("x").private_key_pem.bytes())
    else:
        (tmp_path / "tls.crt").write_text("no certificate")
    sidecar = await start(tmp_path, f'[tls]\ncert_file = "{tmp_path}/tls.crt"\nkey_file = "{tmp_path}/tls.key"\n')
    try:
        assert await asyncio.wait_for(sidecar.process.wait(), 30) == 1
    finally:
        await sidecar.stop()
    last = sidecar.log.splitlines()[-1]
    assert last.startswith(f"sidecar: {tmp_path}/tls.")
    assert "Traceback" not in sidecar.log


# --- other addresses --------------------------------------------------------------------------------------------------------------


async def test_other_addresses_are_served_once_callers_are_known(tmp_path):
    tables = TOKENS + "[providers.echo]\n"
    sidecar = await start(tmp_path, tables)
    await sidecar.stop()
    settings = next(tmp_path.glob("settings-*.toml"))
    settings.write_text(settings.read_text().replace('"127.0.0.1:', '"0.0.0.0:'))
    sidecar.process = await spawn(settings, tmp_path / "log")
    sidecar._log = tmp_path / "log"
    sidecar.channel = grpc.aio.insecure_channel(sidecar.target)
    try:
        await sidecar.logged('"serving"', within_s=30)
        assert (await ask(sidecar))[0] == 401
        assert (await ask(sidecar, **bearer(WEAVER)))[0] == 200
        assert "unencrypted" in sidecar.log
    finally:
        await sidecar.stop()


async def test_port_that_is_taken_is_told(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = tmp_path / "settings.toml"
        doors = f'[server]\nlisten = "127.0.0.1:{free_port()}"\nops_listen = ""\n'
        settings.write_text(doors + f'[http]\nlisten = "127.0.0.1:{port}"\n')
        process = await spawn(settings, tmp_path / "log")
        assert await asyncio.wait_for(process.wait(), 30) == 1
    said = (tmp_path / "log").read_text().splitlines()[-1]
    assert said.startswith(f"sidecar: cannot listen on 127.0.0.1:{port} (http.listen): ")


async def test_door_can_be_off(tmp_path):
    settings = tmp_path / "settings.toml"
    target = f"127.0.0.1:{free_port()}"
    settings.write_text(f'[server]\nlisten = "{target}"\nops_listen = ""\n[http]\nlisten = ""\n')
    sidecar = Sidecar(await spawn(settings, tmp_path / "log"), int(target.rpartition(":")[2]), 0, tmp_path / "log")
    try:
        await sidecar.until_serving()
        assert "http://" not in await sidecar.logged('"serving"')
    finally:
        assert await sidecar.stop() == 0
