"""``shoal doctor``: what is wrong on the way to servers, and with what they are shown. Each test breaks one thing for real."""

from __future__ import annotations

import datetime
import time
from pathlib import Path

import pytest

from support.cli import Shoal
from support.diagnosis import diagnose
from support.endpoints import Issuer, Page, black_hole, closed_port, proxy, web_server
from support.faults import Status
from support.hub import hub_in_thread
from support.hub_repo import HubRepo
from support.s3 import Store

NETWORK = "dns,connect,proxy,tls,http"
READER = "hf_ReaderToken0123456789"
DAY = datetime.timedelta(days=1)


@pytest.fixture
def shoal(tmp_path: Path) -> Shoal:
    return Shoal(tmp_path / "person")


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return Issuer(tmp_path_factory.mktemp("tls"), now=datetime.datetime.now(datetime.UTC))


# --- the way to a server --------------------------------------------------------------------------------------------


def test_a_server_that_is_right(shoal: Shoal, issuer: Issuer) -> None:
    with web_server(chain=issuer.chain("right")) as port:
        environ = {"HF_ENDPOINT": f"https://localhost:{port}", "SHOAL_HUB_CA_BUNDLE": str(issuer.ca)}
        found = diagnose(shoal, only=f"{NETWORK},clock", environ=environ)
    assert found.finished.exit_code == 0, found.rows
    assert "127.0.0.1" in found.only("dns").seen
    assert found.only("connect").subject == f"localhost:{port}"
    assert 'issued by "Example Corp, inspecting proxy"' in found.only("tls").seen and "TLSv1" in found.only("tls").seen
    assert found.only("proxy").result == "skipped"
    assert "answers 200" in found.only("http").seen
    assert found.only("clock").result == "ok"


def test_a_name_that_nobody_knows(shoal: Shoal) -> None:
    found = diagnose(shoal, only=NETWORK, environ={"HF_ENDPOINT": "https://hub.invalid"})
    row = found.failed("dns", exit_code=1)
    assert row.subject == "hub.invalid" and "cannot be resolved" in row.seen
    assert "resolv.conf" in row.remedy
    assert found.only("connect").result == "skipped"


def test_a_port_where_nobody_listens(shoal: Shoal) -> None:
    with closed_port() as port:
        found = diagnose(shoal, only=NETWORK, environ={"HF_ENDPOINT": f"http://127.0.0.1:{port}"})
    row = found.failed("connect", exit_code=1)
    assert row.subject == f"127.0.0.1:{port}" and "connection refused" in row.seen
    assert found.only("http").result == "skipped"


def test_a_server_that_never_says_a_word(shoal: Shoal) -> None:
    with black_hole() as port:
        environ = {"HF_ENDPOINT": f"https://127.0.0.1:{port}", "SHOAL_FETCH_CONNECT_TIMEOUT": "3s"}
        found = diagnose(shoal, only=NETWORK, environ=environ)
        row = found.failed("tls", exit_code=1)
        assert "no TLS handshake within 3 s" in row.seen and "ask the network team" in row.remedy
        environ["HF_ENDPOINT"] = f"http://127.0.0.1:{port}"
        found = diagnose(shoal, only=NETWORK, environ=environ)
        assert "nothing of the answer came" in found.failed("http", exit_code=1).seen


@pytest.mark.parametrize(
    ("page", "seen", "remedy"),
    [
        (Page(body=b"<html>Sign in</html>", headers={"Content-Type": "text/html"}), "web page", "hub.endpoint"),
        (Page(status=403, headers={"Content-Type": "text/html"}), "answers 403 with a web page", "network team"),
        (Page(status=511), "answers 511", "sign-in page"),
        (Page(status=503), "answers 503", "try again later"),
    ],
)
def test_an_answer_that_is_not_the_hubs(shoal: Shoal, page: Page, seen: str, remedy: str) -> None:
    with web_server(page) as port:
        found = diagnose(shoal, only="http", environ={"HF_ENDPOINT": f"http://127.0.0.1:{port}"})
    row = found.failed("http", exit_code=1)
    assert seen in row.seen and remedy in row.remedy


def test_each_endpoint_is_looked_at_on_its_own(shoal: Shoal, tmp_path: Path) -> None:
    with closed_port() as closed, web_server() as hub, web_server() as source:
        shoal.cwd.joinpath("shoal.toml").write_text(
            f'[hub]\nendpoint = ["http://127.0.0.1:{closed}", "http://127.0.0.1:{hub}"]\n'
            f'[s3.store]\nendpoint = "http://127.0.0.1:{closed}"\n'
        )
        found = diagnose(shoal, f"http://127.0.0.1:{source}/file.bin", only="connect")
    by_subject = {row.subject: row.result for row in found.of("connect")}
    assert by_subject[f"127.0.0.1:{hub}"] == by_subject[f"127.0.0.1:{source}"] == "ok"
    assert by_subject[f"127.0.0.1:{closed}"] == "failed"


def test_offline_asks_nobody(shoal: Shoal) -> None:
    page = Page()
    with web_server(page) as port:
        environ = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HUB_OFFLINE": "1", "HF_TOKEN": READER}
        found = diagnose(shoal, only=f"{NETWORK},token", environ=environ)
    assert found.finished.exit_code == 0
    assert page.asked == []
    assert "HF_HUB_OFFLINE" in found.only("dns").seen


# --- certificates ---------------------------------------------------------------------------------------------------


def test_a_proxy_that_intercepts_tls_is_told_by_its_issuer(shoal: Shoal, issuer: Issuer) -> None:
    with web_server(chain=issuer.chain("unknown")) as port:
        found = diagnose(shoal, only=NETWORK, environ={"HF_ENDPOINT": f"https://localhost:{port}"})
    row = found.failed("tls", exit_code=1)
    assert 'issued by "Example Corp, inspecting proxy", which is not trusted here' in row.seen
    assert "your proxy intercepts TLS: set hub.ca_bundle" in row.remedy


def test_certificates_that_are_wrong_each_in_its_way(shoal: Shoal, issuer: Issuer) -> None:
    bad = {
        "expired": issuer.chain("expired", begins=-30 * DAY, ends=-DAY),
        "early": issuer.chain("early", begins=5 * DAY),
        "other": issuer.chain("other", name="other.example"),
        "self": issuer.chain("self", self_signed=True),
    }
    expected = {
        "expired": ("expired on 20", "owner must renew"),
        "early": ("not valid before 20", "clock"),
        "other": ("for another name: other.example", "use a name that the certificate holds"),
        "self": ('self-signed by "server self"', "set hub.ca_bundle"),
    }
    for kind, chain in bad.items():
        with web_server(chain=chain) as port:
            environ = {"HF_ENDPOINT": f"https://localhost:{port}", "SHOAL_HUB_CA_BUNDLE": str(issuer.ca)}
            row = diagnose(shoal, only="tls", environ=environ).failed("tls", exit_code=1)
        seen, remedy = expected[kind]
        assert seen in row.seen and remedy in row.remedy, (kind, row)


def test_a_certificate_that_ends_soon_and_one_that_is_not_checked(shoal: Shoal, issuer: Issuer) -> None:
    with web_server(chain=issuer.chain("soon", ends=3 * DAY)) as port:
        environ = {"HF_ENDPOINT": f"https://localhost:{port}", "SHOAL_HUB_CA_BUNDLE": str(issuer.ca)}
        soon = diagnose(shoal, only="tls", environ=environ).only("tls")
        environ = {"HF_ENDPOINT": f"https://localhost:{port}", "SHOAL_HUB_VERIFY_TLS": "false"}
        open_tls = diagnose(shoal, only="tls", environ=environ).only("tls")
    assert soon.result == "warning" and "that is soon" in soon.seen
    assert open_tls.result == "warning" and "not checked" in open_tls.seen and "hub.ca_bundle" in open_tls.remedy


def test_what_is_no_tls_and_what_is_no_ca_file(shoal: Shoal, issuer: Issuer, tmp_path: Path) -> None:
    with web_server() as port:
        row = diagnose(shoal, only="tls", environ={"HF_ENDPOINT": f"https://localhost:{port}"}).failed(
            "tls", exit_code=1
        )
        assert "wrong version number" in row.seen or "handshake" in row.seen
    (tmp_path / "junk.pem").write_text("junk")
    with web_server(chain=issuer.chain("fine")) as port:
        environ = {"HF_ENDPOINT": f"https://localhost:{port}", "SHOAL_HUB_CA_BUNDLE": str(tmp_path / "junk.pem")}
        row = diagnose(shoal, only="tls", environ=environ).failed("tls", exit_code=2)
        assert "junk.pem" in row.seen and "PEM" in row.remedy


# --- proxies --------------------------------------------------------------------------------------------------------


def test_a_proxy_that_lets_us_through(shoal: Shoal, issuer: Issuer) -> None:
    with web_server(chain=issuer.chain("behind", name="hub.example")) as port, proxy(to=port) as (at, asked):
        environ = {
            "HF_ENDPOINT": "https://hub.example",
            "HTTPS_PROXY": f"http://me:Sesame-Street-9@127.0.0.1:{at}",
            "SHOAL_HUB_CA_BUNDLE": str(issuer.ca),
        }
        found = diagnose(shoal, only=NETWORK, environ=environ)
    assert found.finished.exit_code == 0, found.rows
    row = found.only("proxy")
    assert row.subject == f"proxy 127.0.0.1:{at} to hub.example:443"
    assert "environment variable HTTPS_PROXY" in row.seen
    assert asked and asked[0].startswith("hub.example:443 Basic")
    assert "Sesame" not in found.finished.stdout + found.finished.stderr


@pytest.mark.parametrize(
    ("status", "seen", "remedy"),
    [
        (407, "answered 407", "user name and password"),
        (403, "answered 403 to CONNECT", "allow CONNECT to hub.example:443"),
    ],
)
def test_a_proxy_that_does_not(shoal: Shoal, status: int, seen: str, remedy: str) -> None:
    with proxy(refuse=status) as (at, _):
        environ = {"HF_ENDPOINT": "https://hub.example", "https_proxy": f"http://127.0.0.1:{at}"}
        row = diagnose(shoal, only=NETWORK, environ=environ).failed("proxy", exit_code=1)
    assert seen in row.seen and "https_proxy" in row.seen and remedy in row.remedy


def test_a_proxy_for_plain_http_that_wants_a_password(shoal: Shoal) -> None:
    with proxy(refuse=407) as (at, _):
        environ = {"HF_ENDPOINT": "http://hub.example", "SHOAL_FETCH_PROXY": f"http://127.0.0.1:{at}"}
        row = diagnose(shoal, only=NETWORK, environ=environ).failed("proxy", exit_code=1)
    assert "407" in row.seen and "fetch.proxy" in row.seen


def test_a_proxy_that_is_not_there_and_no_proxy(shoal: Shoal) -> None:
    with closed_port() as at, web_server() as port:
        environ = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HTTP_PROXY": f"http://127.0.0.1:{at}"}
        row = diagnose(shoal, only=NETWORK, environ=environ).failed("proxy", exit_code=1)
        assert "connection refused" in row.seen and "HTTP_PROXY" in row.remedy and "NO_PROXY" in row.remedy
        found = diagnose(shoal, only=NETWORK, environ={**environ, "NO_PROXY": "127.0.0.1"})
        assert found.finished.exit_code == 0 and found.only("proxy").result == "skipped"


# --- the clock ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ahead_s", "result", "exit_code"), [(0, "ok", 0), (-150, "warning", 0), (150, "warning", 0), (-7200, "failed", 1)]
)
def test_a_clock_that_is_off(shoal: Shoal, ahead_s: float, result: str, exit_code: int) -> None:
    with web_server(Page(clock=lambda: time.time() + ahead_s)) as port:
        found = diagnose(shoal, only="clock", environ={"HF_ENDPOINT": f"http://127.0.0.1:{port}"})
    row = found.only("clock")
    assert (row.result, found.finished.exit_code) == (result, exit_code), row
    assert result == "ok" or ("NTP" in row.remedy and ("behind" if ahead_s > 0 else "ahead of") in row.seen)


# --- access ---------------------------------------------------------------------------------------------------------


def test_the_token_and_what_it_may_read(shoal: Shoal) -> None:
    repos = [HubRepo("acme/open", {"a": b"1"}), HubRepo("acme/gated", {"a": b"12"}, gated="manual", readers=[READER])]
    stranger = "hf_StrangerToken0123456789"
    with hub_in_thread(repos, tokens=[stranger]) as hub:
        asked = ("hf://acme/open", "hf://acme/gated", "--to", "models")
        right = diagnose(
            shoal, *asked, only="token,sources,bytes", environ={"HF_ENDPOINT": hub.url, "HF_TOKEN": READER}
        )
        assert right.finished.exit_code == 0, right.rows
        assert "of tester, from environment variable HF_TOKEN" in right.only("token").seen
        other = diagnose(shoal, *asked, only="sources,bytes", environ={"HF_ENDPOINT": hub.url, "HF_TOKEN": stranger})
        row = other.failed("sources", exit_code=3)
        assert "gated" in row.seen and f"{hub.url}/acme/gated" in row.remedy
        wrong = diagnose(
            shoal, *asked, only="token", environ={"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_Expired0123456789"}
        )
        row = wrong.failed("token", exit_code=3)
        assert "does not accept the token" in row.seen and "settings/tokens" in row.remedy
        for run in (right, other, wrong):
            for secret in (READER, stranger, "hf_Expired0123456789"):
                assert secret not in run.finished.stdout + run.finished.stderr


def test_no_token_and_a_token_that_cannot_be_read(shoal: Shoal, tmp_path: Path) -> None:
    with hub_in_thread() as hub:
        none = diagnose(shoal, only="token", environ={"HF_ENDPOINT": hub.url})
        assert none.only("token").result == "warning" and none.finished.exit_code == 0
        environ = {"HF_ENDPOINT": hub.url, "SHOAL_HUB_TOKEN_FILE": str(tmp_path / "nowhere")}
        assert (
            "there is no such file" in diagnose(shoal, only="token", environ=environ).failed("token", exit_code=2).seen
        )


def test_sources_that_are_not_there_or_not_allowed(shoal: Shoal) -> None:
    with hub_in_thread([HubRepo("acme/open", {"a": b"1"})]) as hub:
        environ = {"HF_ENDPOINT": hub.url}
        row = diagnose(shoal, "hf://acme/absent", only="sources", environ=environ).failed("sources", exit_code=3)
        assert "acme/absent" in row.subject and "check the spelling" in row.remedy
        environ["SHOAL_SECURITY_ALLOW"] = "bigcode/*"
        diagnose(shoal, "hf://acme/open", only="sources", environ=environ).failed("sources", exit_code=7)


def test_the_machines_that_serve_files_are_asked_too(shoal: Shoal) -> None:
    with hub_in_thread([HubRepo("acme/big", {"model.bin": bytes(100_000)}, lfs_bytes_min=1000)]) as hub:
        hub.faults.add(Status(403), kinds=frozenset({"cdn"}))
        row = diagnose(shoal, "hf://acme/big", only="bytes", environ={"HF_ENDPOINT": hub.url}).failed(
            "bytes", exit_code=3
        )
    assert "answers 403" in row.seen and "where the files come from" in row.remedy


def test_keys_of_stores(shoal: Shoal, tmp_path: Path) -> None:
    with Store(tmp_path / "store", access="AK1", secret="SecretKeySecretKey") as store:
        store.write("models/a/b.bin", b"123")
        config = shoal.cwd / "shoal.toml"
        config.write_text(store.profile("right", bucket='"models"'))
        config.chmod(0o600)
        found = diagnose(shoal, only="s3")
        assert found.finished.exit_code == 0 and "listing and reading are allowed" in found.only("s3").seen
        config.write_text(store.profile("wrong", bucket='"models"', secret_access_key='"NotTheSecretKey"'))
        row = diagnose(shoal, only="s3").failed("s3", exit_code=3)
        assert "wrong" in row.seen and "secret_access_key" in row.remedy
        config.write_text(store.profile("lost", bucket='"nowhere"'))
        assert "no such bucket" in diagnose(shoal, only="s3").failed("s3", exit_code=3).seen
        everything = shoal.run("doctor", "s3://models/a/", "--profile", "wrong", "--skip", "slurm")
        assert "SecretKey" not in everything.stdout + everything.stderr
