"""Webhooks over a real connection: what an answer means, whom the sidecar trusts, and that no problem tells the address."""

from __future__ import annotations

import ssl

import pytest
import trustme

from sidecar.observe.alerts import Alert
from sidecar.observe.receivers import Chat, From, NotSent
from tests.fakes.receivers import Hooks

ALERT = Alert("health", "warning", "a", "it happened", {}, 1_700_000_000_000, 60_000)


async def problem(url: str, tls: ssl.SSLContext | None = None) -> NotSent | None:
    """What sending says, without the address; None: it arrived."""
    chat = Chat(f"{url}/services/hunter2?sig=hunter2", From("pod", "local"), tls)
    said = None
    try:
        await chat.send([ALERT])
    except NotSent as error:
        said = error
    finally:
        await chat.close()
    assert "hunter2" not in str(said)
    return said


@pytest.mark.parametrize(
    ("status", "headers", "again_s", "is_final"),
    [
        (400, {}, 0, True),
        (401, {}, 0, False),
        (404, {}, 0, False),
        (413, {}, 0, True),
        (429, {"retry-after": "30"}, 30, False),
        (429, {"retry-after": "99999999"}, 3_600, False),
        (429, {"retry-after": "soon"}, 0, False),
        (500, {}, 0, False),
        (503, {"retry-after": "7"}, 7, False),
    ],
)
async def test_what_an_answer_means(status, headers, again_s, is_final):
    async with Hooks() as hooks:
        hooks.answers = [(status, headers)]
        error = await problem(hooks.url)
    assert error is not None
    assert (str(error), error.again_s, error.is_final) == (f"answers with HTTP {status}", again_s, is_final)


async def test_a_redirection_is_not_followed():
    async with Hooks() as hooks, Hooks() as elsewhere:
        hooks.answers = [(307, {"location": f"{elsewhere.url}/"})]
        assert str(await problem(hooks.url)) == "answers with HTTP 307"
        assert elsewhere.told == []


async def test_a_certificate_of_an_authority_of_ones_own_needs_ca_file():
    authority = trustme.CA()
    theirs, ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(theirs)
    authority.configure_trust(ours)
    async with Hooks(theirs) as hooks:
        assert await problem(hooks.url, ours) is None
        assert str(await problem(hooks.url)) == "shows a certificate that is not trusted (alerts.ca_file)"
        assert len(hooks.told) == 1


async def test_nobody_there():
    hooks = Hooks()
    assert str(await problem(hooks.url)) == "cannot be reached: Connection refused"
    assert "cannot be reached: " in str(await problem(f"http://{'no-such-name.' * 20}invalid"))
