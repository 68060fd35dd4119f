"""Shoal and Slurm, as far as it needs no Slurm: where a process stands, scripts, what follows a stop, what nodes' answers mean."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shoal.common.errors import NoSpace, NotFound, NotShared, NotWritable, ShoalError, UsageError
from shoal.common.settings import load_settings
from shoal.common.version import VERSION
from shoal.slurm import checks, commands, run_record
from shoal.slurm.allocation import Allocation, allocation, array_tasks, share
from shoal.slurm.batch import TEMPLATES, render, template
from shoal.slurm.ending import Next, Run, next_of, warning_s
from shoal.slurm.places import Places, places_of, servers_of
from shoal.slurm.srun_agents import Layout, cpus_of, srun_command
from shoal.slurm.step import task_environ

INSIDE = {
    "SLURM_JOB_ID": "17",
    "SLURM_JOB_NODELIST": "n[0-3]",
    "SLURM_JOB_NUM_NODES": "4",
    "SLURM_SUBMIT_DIR": "/home/me",
}


# ---- where we are -------------------------------------------------------------------------------------------------------


def test_an_allocation_is_what_slurm_says() -> None:
    assert allocation({}) is None
    assert allocation(INSIDE) == Allocation(job_id="17", node_list="n[0-3]", nodes=4, submit_dir="/home/me")
    requeued = allocation({**INSIDE, "SLURM_RESTART_COUNT": "2"})
    assert requeued is not None
    assert (requeued.restarts, requeued.key) == (2, "17")


def test_a_task_of_an_array_has_a_name_that_outlives_its_requeues() -> None:
    array = {
        "SLURM_ARRAY_JOB_ID": "15",
        "SLURM_ARRAY_TASK_ID": "4",
        "SLURM_ARRAY_TASK_COUNT": "3",
        "SLURM_ARRAY_TASK_MIN": "0",
        "SLURM_ARRAY_TASK_MAX": "4",
    }
    found = allocation({**INSIDE, **array})
    assert found is not None
    assert found.key == "15_4"
    assert found.array_tasks == (0, 2, 4)
    assert share("abcdefg", found.array_tasks, found.array_task) == ["c", "f"]
    odd = allocation({**INSIDE, **array, "SLURM_ARRAY_TASK_MAX": "9"})  # 0,4,9: Slurm does not tell which
    assert odd is not None
    with pytest.raises(UsageError, match="name the whole array"):
        share("abc", odd.array_tasks, 4)


@pytest.mark.parametrize(
    ("change", "thing"),
    [
        ({"SLURM_JOB_ID": "x"}, "SLURM_JOB_ID"),
        ({"SLURM_JOB_NODELIST": ""}, "this job"),
        ({"SLURM_JOB_NUM_NODES": "-1"}, "SLURM_JOB_NUM_NODES"),
        ({"SLURM_RESTART_COUNT": "two"}, "SLURM_RESTART_COUNT"),
    ],
)
def test_an_environment_that_contradicts_itself_is_refused(change: dict[str, str], thing: str) -> None:
    with pytest.raises(UsageError) as caught:
        allocation({**INSIDE, **change})
    assert caught.value.thing == thing


@pytest.mark.parametrize(
    ("text", "tasks"),
    [
        ("0-3", (0, 1, 2, 3)),
        ("0-31:8%2", (0, 8, 16, 24)),
        ("7", (7,)),
        ("5,1,3-4,3", (1, 3, 4, 5)),
    ],
)
def test_arrays_are_read_as_slurm_reads_them(text: str, tasks: tuple[int, ...]) -> None:
    assert array_tasks(text) == tasks


@pytest.mark.parametrize(
    "text", ["", "a", "3-1", "0-", "0-3%0", "0--3", "1,,2", "0-999999999", "0-3:0", "0-3\n#SBATCH"]
)
def test_what_is_no_array_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        array_tasks(text)


def test_the_tasks_of_an_array_share_all_lines_and_none_twice() -> None:
    lines = list(range(23))
    for tasks in ((0, 1, 2, 3), (5,), (1, 8, 9)):
        shares = [share(lines, tasks, task) for task in tasks]
        assert sorted(line for part in shares for line in part) == lines
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


# ---- what follows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "follows"),
    [
        (Run(stopped=False, left_s=None, warning_s=120, chain=3), Next.END),
        (Run(stopped=False, left_s=10, warning_s=120, chain=3), Next.END),  # done or failed for good, late as it is
        (Run(stopped=True, left_s=119, warning_s=120, chain=3), Next.CONTINUE),
        (Run(stopped=True, left_s=180, warning_s=120, chain=3), Next.CONTINUE),  # Slurm may warn a minute early
        (Run(stopped=True, left_s=0, warning_s=120, chain=3), Next.CONTINUE),
        (Run(stopped=True, left_s=-5, warning_s=120, chain=3), Next.CONTINUE),
        (Run(stopped=True, left_s=3600, warning_s=120, chain=3), Next.STOP),  # preempted, requeued, cancelled
        (Run(stopped=True, left_s=None, warning_s=120, chain=3), Next.STOP),  # no limit: it cannot be the time
        (Run(stopped=True, left_s=100, warning_s=120, chain=3, continuations=2), Next.CONTINUE),
        (Run(stopped=True, left_s=100, warning_s=120, chain=3, continuations=3), Next.EXHAUSTED),
        (Run(stopped=True, left_s=100, warning_s=120), Next.STOP),
    ],
)
def test_only_a_job_whose_time_is_out_is_continued_and_not_for_ever(run: Run, follows: Next) -> None:
    assert next_of(run) is follows


@pytest.mark.parametrize(
    ("text", "seconds"), [("B:TERM@120", 120), ("B:USR1@600", 600), ("B:TERM", 60), ("B:SIGUSR1@5", 5), ("B:15@90", 90)]
)
def test_how_long_before_the_end_slurm_warns(text: str, seconds: float) -> None:
    assert warning_s(text) == seconds


@pytest.mark.parametrize("text", ["", "TERM@120", "B:KILL@10", "B:USR2@10", "B:TERM@", "B:TERM@x", "B:TERM@120 --x"])
def test_a_warning_that_would_not_be_heard_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        warning_s(text)


# ---- scripts ------------------------------------------------------------------------------------------------------------


def directives(script: str) -> list[str]:
    """The options of sbatch in a script, unquoted."""
    return [shlex.split(line)[1] for line in script.splitlines() if line.startswith("#SBATCH ")]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_a_script_that_a_person_can_read_and_use(name: str, tmp_path: Path) -> None:
    script = template(name)
    assert script.startswith("#!/bin/bash\n# ")
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    assert "--requeue" in directives(script)
    assert any(option.startswith("--signal=B:TERM@") for option in directives(script))
    block = script.partition("# ---- edit")[2].partition("# ---- end")[0]
    assert len([line for line in block.splitlines() if line[:1].isupper()]) == 4  # three variables, and what is run
    shown = script.replace('exec "${SHOAL[@]}"', "printf '%s\\n'")
    told = subprocess.run(
        ["bash", "-c", shown], env={"SLURM_SUBMIT_DIR": "/s"}, capture_output=True, text=True, check=True
    )
    words = told.stdout.splitlines()
    assert words[:2] == ["launch", "slurm"]
    from shoal.client.fleet_jobs import read_commands
    from shoal.client.options import build_parser

    options = build_parser().parse_args(words)
    assert read_commands(options.words)
    if options.signal or name == "collect":
        assert f"--signal={options.signal}" in directives(script)


def test_rendering_replaces_options_and_the_block_and_nothing_else(tmp_path: Path) -> None:
    arguments = ["launch", "slurm", "--", "get", "hf://a/b", "--to", 'it\'s $HOME; `x` "y"']
    script = render(
        template("repos"),
        {"nodes": "8", "requeue": None, "no-requeue": "", "comment": "a b; $(rm)", "time": "2-00"},
        ["/opt/shoal dir/shoal"],
        arguments,
        ["module load python"],
    )
    found = directives(script)
    assert "--nodes=8" in found and "--nodes=2" not in found
    assert "--no-requeue" in found and "--requeue" not in found
    assert "--comment=a b; $(rm)" in found and "--time=2-00" in found
    assert "##SBATCH" not in script and "# ---- edit" not in script
    shown = script.replace('exec "${SHOAL[@]}"', "printf '%s\\n' \"${SHOAL[@]}\"").replace("module load python", ":")
    told = subprocess.run(["bash", "-c", shown], capture_output=True, text=True, check=True, env={"PATH": os.defpath})
    assert told.stdout.splitlines() == ["/opt/shoal dir/shoal", *arguments]


@pytest.mark.parametrize(
    ("changes", "setup"),
    [
        ({"comment": "a\n#SBATCH --uid=0"}, []),
        ({"comment": "a\0"}, []),
        ({"no des": "1"}, []),
        ({"": "1"}, []),
        ({}, ["a\nb"]),
    ],
)
def test_what_cannot_stand_in_a_script_is_refused(changes: dict[str, str], setup: list[str]) -> None:
    with pytest.raises(UsageError):
        render(template("repos"), changes, ["shoal"], ["launch"], setup)


# ---- the record ---------------------------------------------------------------------------------------------------------


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    assert run_record.load(tmp_path) == run_record.RunRecord()
    record = run_record.RunRecord().begun({"restarts": 0}).with_finished(["get", "x"]).continued().ended(code=0)
    run_record.save(tmp_path, record)
    assert run_record.load(tmp_path) == record
    assert [path.name for path in tmp_path.iterdir()] == [run_record.NAME]


@pytest.mark.parametrize("keep", [0, 10, 64, 65, 100, -1])
def test_a_record_that_was_cut_is_set_aside_and_costs_nothing_but_time(keep: int, tmp_path: Path) -> None:
    run_record.save(tmp_path, run_record.RunRecord().with_finished(["get", "x"]))
    path = tmp_path / run_record.NAME
    path.write_bytes(path.read_bytes()[:keep])
    assert run_record.load(tmp_path) == run_record.RunRecord()
    assert path.with_suffix(".damaged").exists()
    assert not path.exists()


def test_a_record_of_another_format_is_not_guessed_at(tmp_path: Path) -> None:
    import hashlib

    text = json.dumps({"format": 99}).encode()
    (tmp_path / run_record.NAME).write_bytes(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
    assert run_record.load(tmp_path) == run_record.RunRecord()


def test_a_record_that_cannot_be_written_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(NotWritable, match="--state"):
        run_record.save(tmp_path / "nowhere", run_record.RunRecord())


def test_a_long_history_keeps_its_newest_runs() -> None:
    record = run_record.RunRecord()
    for number in range(run_record.RUNS_MAX + 5):
        record = record.begun({"restarts": number})
    assert len(record.runs) == run_record.RUNS_MAX
    assert record.runs[-1]["restarts"] == run_record.RUNS_MAX + 4


# ---- what the nodes say -------------------------------------------------------------------------------------------------

NODES = ("n0", "n1", "n2")
SHARED = Places(kind="repos", folder=Path("/shared/x"), servers=("https://hub.example/",))
OWN = Places(kind="broadcast", folder=Path("/local/x"), shared=False)


def answer(node: str, folder: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    good = {"seen": True, "error": "", "free_bytes": 5 << 30, "free_files": None}
    return {"node": node, "version": VERSION, "unreachable": [], "folders": [{**good, **(folder or {})}], **more}


def asked(*places: Places) -> checks.Question:
    return checks.question(places, ["hub.example:443"])


def test_good_answers_tell_how_much_room_there_is() -> None:
    told = checks.verdict(asked(SHARED), NODES, [answer(node) for node in NODES])
    assert told == ["/shared/x: 5GiB free"]
    low = [answer("n0"), answer("n1", {"free_bytes": 5 << 20}), answer("n2")]
    assert checks.verdict(asked(OWN), NODES, low) == ["/local/x: only 5MiB free on n1, the least of all nodes"]


@pytest.mark.parametrize(
    ("places", "bad", "error", "told"),
    [
        (SHARED, {"seen": False, "error": ""}, NotShared, "node n1 does not see the folder"),
        (SHARED, {"seen": False, "error": "No such file or directory"}, NotShared, "--deliver replicate"),
        (OWN, {"seen": False, "error": "Permission denied"}, NotWritable, "node n1: Permission denied"),
        (SHARED, {"error": "Read-only file system"}, NotWritable, "node n1: Read-only file system"),
        (SHARED, {"free_bytes": 0}, NoSpace, "nothing is free on node n1"),
        (OWN, {"free_files": 0}, NoSpace, "nothing is free on node n1"),
    ],
)
def test_one_node_that_cannot_stops_the_job_and_is_named(
    places: Places, bad: dict[str, Any], error: type[ShoalError], told: str
) -> None:
    with pytest.raises(error) as caught:
        checks.verdict(asked(places), NODES, [answer("n0"), answer("n1", bad), answer("n2")])
    assert told in str(caught.value)


def test_nodes_that_say_nothing_or_run_another_version_are_named() -> None:
    with pytest.raises(ShoalError, match="nodes n0, n2: Shoal could not be run there"):
        checks.verdict(asked(SHARED), NODES, [answer("n1")])
    with pytest.raises(ShoalError, match=r"node n2: it has Shoal 0\.0\.1"):
        checks.verdict(asked(SHARED), NODES, [answer("n0"), answer("n1"), answer("n2", version="0.0.1")])


def test_a_server_that_no_node_reaches_stops_the_job_one_that_some_reach_does_not() -> None:
    lost = {"unreachable": ["hub.example:443: timed out"]}
    with pytest.raises(ShoalError, match=r"no node reaches it: timed out \(do compute nodes need a proxy"):
        checks.verdict(asked(SHARED), NODES, [answer(node, **lost) for node in NODES])
    told = checks.verdict(asked(SHARED), NODES, [answer("n0", **lost), answer("n1"), answer("n2")])
    assert told[-1] == "hub.example:443 is not reached from node n0: timed out"


def test_answers_are_found_among_whatever_srun_prints() -> None:
    lines = ["srun: job 3 queued", "{", '{"a": 1}', "[1]", "", json.dumps(answer("n0"))]
    assert [each["node"] for each in checks.answers_in(lines)] == ["n0"]


@pytest.mark.parametrize("shared", [True, False])
def test_a_probe_sees_what_is_there_and_leaves_nothing(shared: bool, tmp_path: Path) -> None:
    place = Places(kind="repos", folder=tmp_path / "to", shared=shared)
    question = checks.question([place, place], ["127.0.0.1:9"])
    checks.place_markers(question)
    done = subprocess.run(
        [sys.executable, "-m", "shoal.slurm.probe"],
        input=question.line(),
        capture_output=True,
        env={**os.environ, "SLURMD_NODENAME": "n7"},
        check=True,
    )
    (found,) = checks.answers_in(done.stdout.decode().splitlines())
    assert found["node"] == "n7"
    assert found["folders"][0]["seen"] and not found["folders"][0]["error"]
    assert "127.0.0.1:9: Connection refused" in found["unreachable"]
    checks.remove_markers(question)
    assert list((tmp_path / "to").iterdir()) == []


def test_a_probe_says_where_it_cannot_write() -> None:
    question = checks.question([Places(kind="repos", folder=Path("/proc"), shared=False)], [])
    done = subprocess.run(
        [sys.executable, "-m", "shoal.slurm.probe"], input=question.line(), capture_output=True, check=True
    )
    (found,) = checks.answers_in(done.stdout.decode().splitlines())
    assert found["folders"][0]["seen"] and found["folders"][0]["error"]
    with pytest.raises(NotWritable, match=found["folders"][0]["error"]):
        checks.verdict(question, [found["node"]], [found])


def test_what_can_be_told_before_a_job_is_submitted(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    checks.check_folder(Places(kind="repos", folder=tmp_path / "a" / "b"))
    checks.check_folder(Places(kind="broadcast", folder=Path("/nowhere/at/all"), shared=False))
    checks.check_folder(Places(kind="collect", folder=None))
    assert checks.local_folder(tmp_path) == tmp_path
    assert checks.local_folder(Path("/nowhere")) in checks.LOCAL_FOLDERS
    with pytest.raises(NotWritable, match="a file lies where a folder should be"):
        checks.check_folder(Places(kind="repos", folder=tmp_path / "file" / "x"))
    with pytest.raises(NotFound, match="check --data"):
        checks.check_folder(Places(kind="tools", folder=tmp_path / "data", must_exist=True))


def test_a_network_file_system_bears_no_database_and_no_doubt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {tmp_path: "lustre", checks.LOCAL_FOLDERS[0]: "nfs4", checks.LOCAL_FOLDERS[1]: "ext4"}
    monkeypatch.setattr(checks, "filesystem_type", lambda folder: kinds.get(folder, "tmpfs"))
    assert checks.local_folder(tmp_path) == checks.LOCAL_FOLDERS[1]
    assert checks.check_folder(Places(kind="repos", folder=tmp_path)) == ""
    kinds[tmp_path] = "ext4"
    assert "often one machine's own" in checks.check_folder(Places(kind="repos", folder=tmp_path))
    monkeypatch.setattr(checks, "filesystem_type", lambda folder: "lustre")
    with pytest.raises(UsageError, match="set TMPDIR"):
        checks.local_folder(tmp_path)


# ---- commands -----------------------------------------------------------------------------------------------------------


def test_what_commands_touch(tmp_path: Path) -> None:
    settings = load_settings(environ={"HF_ENDPOINT": "http://mirror:8080/hf", "HF_HUB_CACHE": "/cache"}, cwd=tmp_path)

    def places(*words: str) -> Places:
        return places_of(words, settings, tmp_path)

    spread = places("get", "hf://a/b", "https://x.example:8443/f", "--to", "/to")
    assert spread == Places(
        kind="repos", folder=Path("/to"), servers=("http://mirror:8080/hf", "https://x.example:8443/")
    )
    assert servers_of([spread], settings, {}) == ["mirror:8080", "x.example:8443"]
    through = {"https_proxy": "http://user:secret@proxy:3128", "no_proxy": "mirror"}
    assert servers_of([spread], settings, through) == ["mirror:8080", "proxy:3128"]
    assert places("get", "hf://a/b").folder == Path("/cache")
    copy = places("get", "s3://bucket/k/", "--to", "/l", "--deliver", "replicate")
    assert (copy.kind, copy.shared, copy.servers) == ("broadcast", False, ())
    assert places("collect", "t.csv", "--to", "s3://bucket/d").folder is None
    assert places("tools", "run", "resize", "--data", "d") == Places(
        kind="tools", folder=tmp_path / "d", must_exist=True
    )


def test_srun_is_told_that_nodes_may_fail() -> None:
    command = srun_command(Layout(nodes=3, per_node=2, cpus=4), "shoal.slurm.step", name="x", errors="/s/agent-%t.log")
    for option in ("--nodes=3", "--ntasks=6", "--ntasks-per-node=2", "--cpus-per-task=4", "--no-kill", "--wait=0"):
        assert option in command
    assert "--kill-on-bad-exit=0" in command
    assert "--overcommit" in srun_command(Layout(nodes=1), "m", name="x")


@pytest.mark.parametrize(
    ("environ", "per_node", "cpus"),
    [
        ({"SLURM_CPUS_PER_TASK": "8"}, 1, 8),
        ({"SLURM_JOB_CPUS_PER_NODE": "16(x3),8"}, 1, 8),
        ({"SLURM_JOB_CPUS_PER_NODE": "16(x4)"}, 4, 4),
        ({"SLURM_JOB_CPUS_PER_NODE": "2"}, 4, 0),
        ({"SLURM_JOB_CPUS_PER_NODE": "2(x2)", "SLURM_CPUS_PER_TASK": "2"}, 2, 1),
        ({}, 1, 0),
    ],
)
def test_agents_get_the_processors_of_the_job(environ: dict[str, str], per_node: int, cpus: int) -> None:
    assert cpus_of(environ, per_node) == cpus


def test_a_task_knows_its_place() -> None:
    slurm = {"SLURMD_NODENAME": "n3", "SLURM_NODEID": "2", "SLURM_PROCID": "5", "SLURM_LOCALID": "1"}
    alone = task_environ({**slurm, "SHOAL_AGENTS": "4", "SHOAL_NODES": "4", "SLURM_CPUS_PER_TASK": "8"}, "host")
    assert alone == {"SHOAL_NODE_INDEX": "2", "SHOAL_RANK": "5", "SHOAL_WORKERS": "8", "SHOAL_AGENT_NAME": "n3"}
    several = task_environ({**slurm, "SHOAL_AGENTS": "8", "SHOAL_NODES": "4"}, "host")
    assert several["SHOAL_AGENT_NAME"] == "n3-1"


def test_what_slurm_refuses_is_quoted_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "sbatch"
    fake.write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: x' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(UsageError, match=r"invalid partition specified: x \(sinfo lists the partitions\)"):
        commands.submit("#!/bin/sh\n", tmp_path)
    fake.write_text("#!/bin/sh\necho '123;cluster'\n")
    assert commands.submit("#!/bin/sh\n", tmp_path) == "123"
    fake.write_text("#!/bin/sh\necho hello\n")
    with pytest.raises(ShoalError, match="instead of a job's id"):
        commands.submit("#!/bin/sh\n", tmp_path)
    fake.unlink()
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(UsageError, match="not in PATH"):
        commands.submit("#!/bin/sh\n", tmp_path)
