"""A fleet fetches from stores: agents have no keys, and no key is anywhere but in the coordinator's memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from shoal.common.views import JobStatus
from shoal.v1 import fleet_service_pb2 as pb
from shoal.v1.fleet_service_pb2_grpc import FleetServiceStub
from support.cli import delivered, files_below
from support.contents import SyntheticFile, as_content, read_all
from support.fleet import Fleet, command_lines
from support.s3 import Asked, Store

MIB = 1 << 20
FIRST = ("AKIAFIRSTSHOALTEST", "first/s3cr3t+of-a-store")
SECOND = ("AKIASECONDSHOALTEST", "second/s3cr3t+of-a-store")
SIGNED = ("X-Amz-Signature", "X-Amz-Credential")
BIG = read_all(as_content(SyntheticFile(48 * MIB + 5, seed=5)))
AGENTS = ("a1", "a2", "a3")


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[tuple[Store, Store]]:
    with (
        Store(tmp_path / "one", access=FIRST[0], secret=FIRST[1], rate=20 * MIB) as one,
        Store(tmp_path / "two", access=SECOND[0], secret=SECOND[1]) as two,
    ):
        one.write("models/v1/big.bin", BIG)
        for number in range(200):
            two.write(f"data/set/{number:03}.txt", b"%d\n" % number * 20)
        yield one, two


@pytest.fixture
def fleet(tmp_path: Path, stores: tuple[Store, Store]) -> Iterator[Fleet]:
    one, two = stores
    config = tmp_path / "shoal.toml"
    config.write_text(one.profile("one") + two.profile("two"))
    with Fleet(tmp_path / "fleet", endpoint="http://127.0.0.1:1") as found:
        home = Path(found.folder / "coordinator" / "config" / "shoal")
        home.mkdir(parents=True)
        config.rename(home / "config.toml")  # the coordinator's alone
        yield found


def everything_said(fleet: Fleet) -> bytes:
    """Logs of all daemons, the coordinator's database, the agents' journals."""
    said: list[bytes] = []
    for path in files_below(fleet.folder):
        with contextlib.suppress(FileNotFoundError):  # daemons are at work
            said += [path.read_bytes()] if path.name != "config.toml" else []
    return b"\n".join(said)


def test_three_agents_and_two_profiles(fleet: Fleet, stores: tuple[Store, Store], tmp_path: Path) -> None:
    one, two = stores
    # No more than a busy machine takes: what it is behind with is lost where a range is shared out anew.
    one.rate = MIB // 4
    fleet.start(*AGENTS)
    first = fleet.submit("s3://models/v1/", "--to", tmp_path / "a", "--profile", "one")
    second = fleet.submit("s3://data/set/", "--to", tmp_path / "b", "--profile", "two")
    lines = command_lines()
    big, small = fleet.ended(first), fleet.ended(second)

    assert delivered(tmp_path / "a") == {"big.bin": BIG}
    assert delivered(tmp_path / "b") == {f"{n:03}.txt": b"%d\n" % n * 20 for n in range(200)}
    assert (big.bytes_fetched, small.objects_done) == (len(BIG), 200)
    assert len(BIG) <= one.log.bytes_served() <= len(BIG) * 1.25
    assert len(two.log.objects) == 200
    said = everything_said(fleet)
    for secret in (*FIRST, *SECOND, *SIGNED):
        assert secret.encode() not in said, secret
        assert not [line for line in lines if secret in line and "rclone" not in line], secret


def test_equal_requests_with_other_profiles_are_other_jobs(fleet: Fleet, tmp_path: Path) -> None:
    fleet.start()
    arguments = ("s3://models/v1/", "--to", tmp_path / "a", "--profile")
    first = fleet.submit(*arguments, "one")
    assert fleet.submit(*arguments, "two") != first
    assert fleet.submit(*arguments, "one") == first


def test_only_a_jobs_own_objects_are_signed(fleet: Fleet, tmp_path: Path) -> None:
    fleet.start()  # no agent: the jobs stay open
    jobs = [
        fleet.submit(uri, "--to", tmp_path / profile, "--profile", profile)
        for uri, profile in (("s3://models/v1/", "one"), ("s3://data/set/", "two"))
    ]
    ids: list[list[int]] = []
    for job in jobs:
        fleet.until("the listing", lambda job=job: fleet.job(job).objects_total)
        ids.append([view.object_id for view in fleet.objects(job)])

    def ask(job: str, *object_ids: int) -> list[str]:
        request = pb.SignObjectsRequest(job_id=job, object_ids=object_ids)
        with grpc.insecure_channel(fleet.address) as channel:
            return [each.url for each in FleetServiceStub(channel).SignObjects(request, timeout=60).urls]

    assert len(ask(jobs[1], *ids[1])) == 200
    assert all("X-Amz-Signature=" in url for url in ask(jobs[0], *ids[0]))
    for job, object_ids in ((jobs[0], ids[1][:1]), (jobs[0], [*ids[0], 10**9]), ("none", ids[0])):
        with pytest.raises(grpc.RpcError) as refused:
            ask(job, *object_ids)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError) as refused:
        ask(jobs[0], *range(2000))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    fleet.run("cancel", jobs[0]).expect(0)
    with pytest.raises(grpc.RpcError) as refused:
        ask(jobs[0], *ids[0])
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_a_profile_that_is_refused_fails_its_job_alone(
    fleet: Fleet, stores: tuple[Store, Store], tmp_path: Path
) -> None:
    fleet.start("a1")
    wrong = fleet.submit("s3://models/v1/", "--to", tmp_path / "a", "--profile", "two")
    unknown = fleet.submit("s3://models/v1/", "--to", tmp_path / "b", "--profile", "nobody")
    right = fleet.submit("s3://data/set/", "--to", tmp_path / "c", "--profile", "two")
    failures = [fleet.ended(job, JobStatus.FAILED).failure for job in (wrong, unknown)]
    assert [failure.code for failure in failures if failure] == ["not-found", "usage"]
    fleet.ended(right)
    assert len(stores[0].log.all) == 0


def test_the_coordinator_is_killed_while_signatures_end(
    fleet: Fleet, stores: tuple[Store, Store], tmp_path: Path
) -> None:
    """Half-way, all signatures made until then expire: agents ask for fresh ones, of a coordinator that has just come back."""
    one, _ = stores
    ended_at = ""

    def expire(asked: Asked) -> tuple[int, bytes] | None:
        nonlocal ended_at
        if not ended_at and asked.is_object and one.log.bytes_served() > len(BIG) // 3:
            ended_at = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        made_at = "".join(asked.query.get("X-Amz-Date", ()))
        if asked.is_object and made_at < ended_at:
            return 403, b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
        return None

    one.answer = expire
    one.rate = MIB // 8  # until the coordinator was killed
    fleet.start(*AGENTS)
    job = fleet.submit("s3://models/v1/big.bin", "--to", tmp_path / "a", "--profile", "one")
    fleet.until_arrived(job, len(BIG) // 4)
    fleet.coordinator.kill()
    one.rate = 20 * MIB
    fleet.coordinator.start()
    ended = fleet.ended(job)
    assert ended.objects_failed == 0
    assert delivered(tmp_path / "a") == {"big.bin": BIG}


def test_two_profiles_replicated_to_four_agents(fleet: Fleet, stores: tuple[Store, Store], tmp_path: Path) -> None:
    one, two = stores
    names = ("n1", "n2", "n3", "n4")
    fleet.coordinator.start()
    for name in names:
        fleet.add_agent(name, "--root", str(tmp_path / name))
    fleet.until_alive(*names)
    one.log.clear()
    two.log.clear()
    first = fleet.submit("s3://models/v1/", "--to", "/x", "--profile", "one", "--deliver", "replicate")
    second = fleet.submit("s3://data/set/", "--to", "/y", "--profile", "two", "--deliver", "replicate")
    fleet.ended(first, timeout_s=80)
    fleet.ended(second, timeout_s=80)
    for name in names:
        assert (tmp_path / name / "x" / "big.bin").read_bytes() == BIG
        for number in range(200):
            assert (tmp_path / name / "y" / f"{number:03}.txt").read_bytes() == b"%d\n" % number * 20
    assert one.log.bytes_served() <= len(BIG) * 1.02 + 100_000, "each byte leaves the store once"
    assert len(two.log.objects) == 200, "so does each small file"
    said = everything_said(fleet)
    for _, secret in (FIRST, SECOND):
        assert secret.encode() not in said
