"""The coordinator seen through grpcurl, a client that knows only what reflection tells it."""

from __future__ import annotations

import asyncio
import datetime
import json
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shoal.common.settings_table import SecuritySettings
from shoal.common.views import Role
from shoal.coordinator.server import CoordinatorServer
from support.fake_coordinator import FakeCoordinator, serving
from support.fleet_certificates import Authority

GRPCURL = shutil.which("grpcurl", path=str(Path(sys.executable).parent)) or shutil.which("grpcurl")

pytestmark = pytest.mark.skipif(GRPCURL is None, reason="grpcurl is not installed")


@pytest.fixture
async def api() -> FakeCoordinator:
    return FakeCoordinator()


@pytest.fixture
async def server(api: FakeCoordinator) -> AsyncIterator[CoordinatorServer]:
    async with serving(api) as server:
        yield server


async def grpcurl(*arguments: str) -> tuple[int, str, str]:
    """Returns: exit code, standard output, standard error."""
    assert GRPCURL is not None
    process = await asyncio.create_subprocess_exec(
        GRPCURL, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_list_and_describe(server: CoordinatorServer) -> None:
    code, out, err = await grpcurl("-plaintext", server.address, "list")
    assert (code, err) == (0, "")
    assert out.split() == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "shoal.v1.FleetAdminService",
        "shoal.v1.FleetService",
        "shoal.v1.JobService",
    ]
    code, out, _err = await grpcurl("-plaintext", server.address, "describe", "shoal.v1.FleetService")
    assert code == 0
    assert "rpc Session ( stream .shoal.v1.SessionRequest ) returns ( stream .shoal.v1.SessionResponse );" in out
    code, out, _err = await grpcurl("-plaintext", server.address, "describe", "shoal.v1.Job")
    assert code == 0
    assert ".shoal.v1.JobStatus status = 4;" in out


async def test_jobs(api: FakeCoordinator, server: CoordinatorServer) -> None:
    code, out, err = await grpcurl("-plaintext", server.address, "shoal.v1.JobService/ListJobs")
    assert (code, json.loads(out), err) == (0, {}, "")
    request = json.dumps(
        {"uris": ["hf://acme/tiny"], "destination": "/data", "layout": "LAYOUT_FOLDER", "priority": -1}
    )
    code, out, err = await grpcurl("-plaintext", "-d", request, server.address, "shoal.v1.JobService/SubmitJob")
    assert (code, err) == (0, "")
    (submitted,) = json.loads(out)["jobs"]
    assert submitted["created"] is True
    assert submitted["job"]["status"] == "JOB_STATUS_RUNNING"
    assert submitted["job"]["created_at"] == "2023-11-14T22:13:20Z"
    assert api.requests[0].destination == "/data"
    code, out, _err = await grpcurl("-plaintext", server.address, "shoal.v1.JobService/ListJobs")
    assert [job["uri"] for job in json.loads(out)["jobs"]] == ["hf://acme/tiny"]
    request = json.dumps({"host": "hub.example.org", "requests_per_s": 2.5})
    code, out, err = await grpcurl(
        "-plaintext", "-d", request, server.address, "shoal.v1.FleetAdminService/SetHostPolicy"
    )
    assert json.loads(out)["host"]["requests_per_s"] == 2.5


async def test_errors_come_with_their_parts(server: CoordinatorServer) -> None:
    code, _out, err = await grpcurl(
        "-plaintext", "-d", '{"job_id": "j9"}', server.address, "shoal.v1.JobService/GetJob"
    )
    assert code == 64 + 5  # NOT_FOUND
    assert "job j9: there is none (shoal jobs lists them)" in err
    assert "shoal.v1.ErrorDetail" in err
    assert '"code":"not-found"' in err.replace(" ", "")


async def test_health(server: CoordinatorServer) -> None:
    for service in ("", "shoal.v1.JobService"):
        code, out, _err = await grpcurl(
            "-plaintext", "-d", json.dumps({"service": service}), server.address, "grpc.health.v1.Health/Check"
        )
        assert (code, json.loads(out)) == (0, {"status": "SERVING"})
    code, _out, err = await grpcurl(
        "-plaintext", "-d", '{"service": "x"}', server.address, "grpc.health.v1.Health/Check"
    )
    assert code == 64 + 5
    assert "NotFound" in err


async def test_health_says_that_the_coordinator_stops(api: FakeCoordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.coordinator.server.CUT_OFF_S", 60.0)  # of who watches on
    async with serving(api) as server:
        watching = await asyncio.create_subprocess_exec(
            GRPCURL or "",
            "-plaintext",
            server.address,
            "grpc.health.v1.Health/Watch",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert watching.stdout is not None
        assert await watching.stdout.readuntil(b"}\n") == b'{\n  "status": "SERVING"\n}\n'
        stopping = asyncio.ensure_future(server.stop(0.1))
        assert await watching.stdout.readuntil(b"}\n") == b'{\n  "status": "NOT_SERVING"\n}\n'
        watching.kill()
        out, _err = await watching.communicate()
        assert out == b""
        await stopping


async def test_with_tls_and_a_token(api: FakeCoordinator, tmp_path: Path) -> None:
    authority = Authority(tmp_path, now=datetime.datetime.now(datetime.UTC))
    cert, key = authority.sign("coordinator", "server")
    admin = (await api.create_token(Role.ADMIN, "alice", None)).token.reveal()
    agent = (await api.create_token(Role.AGENT, "node7", None)).token.reveal()
    security = SecuritySettings(tls_cert=cert, tls_key=key)
    async with serving(api, listen="0.0.0.0:0", security=security) as server:
        to = ("-cacert", str(authority.ca), f"127.0.0.1:{server.port}")

        def bearer(token: str) -> tuple[str, str]:
            return ("-H", f"authorization: Bearer {token}")

        code, out, err = await grpcurl(*bearer(admin), *to, "list")
        assert (code, err) == (0, "")
        assert "shoal.v1.JobService" in out
        code, out, err = await grpcurl(*bearer(admin), *to, "shoal.v1.JobService/ListJobs")
        assert (code, json.loads(out)) == (0, {})
        code, _out, err = await grpcurl(*to, "list")
        assert code != 0
        assert "it carries no credential" in err
        code, _out, err = await grpcurl(*bearer(agent), *to, "list")
        assert "has the role agent; the call needs admin" in err
