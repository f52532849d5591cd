"""Letters to a real SMTP server: encrypted or not, with and without a password, and what it refuses."""

from __future__ import annotations

import ssl
import time

import pytest
import trustme

from sidecar.observe.alerts import Alert
from sidecar.observe.mail import Mailbox
from sidecar.observe.receivers import From, NotSent
from sidecar.settings.alerts import Mail
from tests.fakes.receivers import Post
from tests.fakes.running import free_port

FROM = From("oracle-7", "production")


def alert(message="account tenant:acme:day has reached 80 % of its limit", severity="warning", **facts):
    return Alert("budget", severity, message, message, facts or {"account": "tenant:acme:day"}, 1_700_000_000_000, 60_000)


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def server_tls(authority):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    return context


@pytest.fixture(scope="module")
def client_tls(authority):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def mail(address, **more):
    return Mail(address, sender="sidecar@example.com", recipients=("ops@example.com", "boss@example.com"), **more)


async def send(settings, tls=None, alerts=None):
    return await Mailbox(settings, FROM, tls).send(alerts or [alert()])


async def refused(settings, tls=None) -> NotSent:
    with pytest.raises(NotSent) as caught:
        await send(settings, tls)
    assert "hunter2" not in str(caught.value)
    return caught.value


async def test_a_letter_arrives_with_all_that_it_tells():
    with Post() as post:
        worst = alert("nobody is left to answer oracle.summary", "critical", node="oracle.summary", who="Zoë <b>")
        assert await send(mail(post.address, encryption="none"), alerts=[alert(), worst]) == ""
        (letter,) = post.letters
    assert letter.sender == "sidecar@example.com"
    assert letter.recipients == ["ops@example.com", "boss@example.com"]
    message = letter.message
    assert message["Subject"].strip() == "[llm-sidecar] critical: nobody is left to answer oracle.summary (and 1 more)"
    assert message["To"] == "ops@example.com, boss@example.com"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Message-ID"].endswith("@example.com>")
    text = message.get_content().replace("\r\n", "\n")
    assert "2023-11-14T22:13:20+00:00 warning: account tenant:acme:day has reached 80 % of its limit\n  account: tenant:acme:day" in text
    assert "who: Zoë <b>" in text
    assert "oracle-7, production" in text


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")  # aiosmtpd means STARTTLS by TLS
@pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "tls"])
async def test_the_password_goes_over_an_encrypted_connection_only(implicit, server_tls, client_tls):
    with Post(server_tls, implicit=implicit, password="hunter2") as post:
        settings = mail(post.address, encryption="tls" if implicit else "starttls", user="sidecar", password="hunter2")
        await send(settings, client_tls)
        (letter,) = post.letters
        assert (letter.encrypted, letter.user) == (True, "sidecar")


async def test_a_server_that_nobody_trusts_gets_no_letter(server_tls):
    with Post(server_tls) as post:
        assert "certificate that is not trusted (alerts.ca_file)" in str(await refused(mail(post.address)))
        assert post.letters == []


async def test_starttls_is_never_given_up(client_tls):
    with Post() as post:
        error = await refused(mail(post.address, user="sidecar", password="hunter2"), client_tls)
        assert "STARTTLS" in str(error)
        assert (post.letters, post.tries) == ([], 0)


async def test_a_wrong_password_is_told_without_it(server_tls, client_tls):
    with Post(server_tls, password="other") as post:
        error = await refused(mail(post.address, user="sidecar", password="hunter2"), client_tls)
        assert str(error) == "refuses the user or the password (alerts.mail): 535"
        assert not error.is_final


async def test_who_is_refused_does_not_keep_the_others_from_theirs():
    with Post() as post:
        post.refuses["boss@example.com"] = "550 no such mailbox"
        assert await send(mail(post.address, encryption="none")) == "1 of 2 recipients were refused"
        assert post.letters[0].recipients == ["ops@example.com"]
        post.refuses["ops@example.com"] = "450 greylisted, come back"
        assert str(await refused(mail(post.address, encryption="none"))) == "refuses every recipient: [450, 550]"


async def test_a_letter_that_is_never_taken_is_told_from_one_to_try_again():
    with Post() as post:
        post.refuses["DATA"] = "554 looks like spam"
        assert (await refused(mail(post.address, encryption="none"))).is_final
        post.refuses["DATA"] = "451 try later"
        error = await refused(mail(post.address, encryption="none"))
        assert (str(error), error.is_final) == ("answers with 451", False)


async def test_nobody_there():
    error = await refused(mail(f"127.0.0.1:{free_port()}"))
    assert str(error) == "cannot be reached: Connection refused"


async def test_a_line_break_in_what_a_caller_named_makes_no_header():
    from sidecar.observe.alerts import Judge
    from sidecar.observe.events import Event
    from sidecar.settings import load

    judge = Judge(load(None, {}), "pod", time.time_ns)
    facts = {"tenant": "a\r\nBcc: x@example.com", "node": "n", "action": "notify", "call": "1"}
    made = judge.alert(Event(0, "dear_call", "a call of a\r\nBcc: x@example.com\r\n\r\ncost much", facts))
    with Post() as post:
        await send(mail(post.address, encryption="none"), alerts=[made])
        (letter,) = post.letters
    assert letter.message["Bcc"] is None
    assert letter.message["Subject"].strip() == "[llm-sidecar] warning: a call of a Bcc: x@example.com cost much"
