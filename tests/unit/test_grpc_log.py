"""gRPC's own lines become events, other lines stay what they are, and nothing is lost."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from shoal.common import logs
from shoal.common.grpc_log import EVENTS_MAX, PERIOD_S, Translator

PREFIX = "I1130 14:08:42.925843   10697 ssl_transport_security.cc:2563] "
FAILED = PREFIX + "Handshake failed with error SSL_ERROR_SSL: error:1000007d:SSL routines:OPENSSL_internal:"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    text = io.StringIO()
    logs.configure("debug", "json", text)
    yield text
    logs.configure()


def told(log: io.StringIO) -> list[dict[str, str]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("CERTIFICATE_VERIFY_FAILED: certificate has expired", "its client certificate has expired"),
        (
            "CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate",
            "its certificate does not come from a trusted authority (unable to get local issuer certificate)",
        ),
        (
            "PEER_DID_NOT_RETURN_A_CERTIFICATE: Invalid certificate verification context",
            "it showed no client certificate, which security.client_ca demands",
        ),
        ("WRONG_VERSION_NUMBER", "it does not speak TLS"),
        ("TLSV1_ALERT_UNKNOWN_CA", "it refused our certificate (tlsv1 alert unknown ca)"),
        ("SOMETHING_NEW", "something new"),
    ],
)
def test_why_a_client_was_refused(line: str, reason: str, log: io.StringIO) -> None:
    assert Translator(is_server=True).line(FAILED + line, 0.0) is None
    (event,) = told(log)
    assert (event["action"], event["level"], event["reason"]) == ("tls.refused", "warning", reason)


def test_other_lines(log: io.StringIO) -> None:
    translator = Translator(is_server=True)
    assert translator.line("Fatal Python error: Aborted", 0.0) == "Fatal Python error: Aborted"
    for level in "IWE":
        assert translator.line(f"{level}{PREFIX[1:]}something", 0.0) is None
    assert [event["level"] for event in told(log)] == ["debug", "warning", "error"]


def test_strangers_do_not_fill_the_disk(log: io.StringIO) -> None:
    translator = Translator(is_server=True)
    for _ in range(1000):
        translator.line(FAILED + "WRONG_VERSION_NUMBER", 5.0)
    assert len(told(log)) == EVENTS_MAX
    translator.line(FAILED + "WRONG_VERSION_NUMBER", 5.0 + PERIOD_S)
    assert len(told(log)) == EVENTS_MAX + 1


def test_a_process_whose_standard_error_is_translated() -> None:
    program = f"""
import os, sys
from shoal.common import grpc_log, logs
logs.configure("info", "json", sys.stderr)
log = logs.get_logger("test")
with grpc_log.translated(is_server=True):
    log.info("one.began")
    os.write(2, {(FAILED + "WRONG_VERSION_NUMBER").encode()!r} + b"\\nplain words\\n")
    print("from python", file=sys.stderr)
    os.write(2, b"cut ")
    os.write(2, b"off\\n" + bytes([255]) + b"\\n")
    logs.configure("info", "json", sys.stderr)
log.info("one.ended")
os.write(2, {(FAILED + "SOMETHING").encode()!r} + b"\\n")
print("at the end", file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=os.environ)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    actions = [json.loads(line)["action"] for line in lines if line.startswith("{")]
    assert sorted(actions) == ["one.began", "one.ended", "tls.refused"]
    assert {"plain words", "from python", "cut off", "\\xff", "at the end", FAILED + "SOMETHING"} <= set(lines)


def test_a_process_without_standard_error() -> None:
    program = "import os; os.close(2)\nfrom shoal.common import grpc_log\nwith grpc_log.translated(is_server=True): print('ok')"
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "ok\n")
