"""The commands that a fleet is started for, before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.client.fleet_jobs import merged_code, read_commands
from shoal.common.errors import UsageError


def test_a_command_is_an_ordinary_command_line() -> None:
    words = ["get", "hf://acme/a", "--to", "out", "--set", "fetch.attempts=5"]
    assert read_commands(words) == [words]
    assert read_commands(["shoal", *words]) == [words], "the program's name does no harm"
    assert read_commands(["collect", "t.csv", "--to", "d"]) == [["collect", "t.csv", "--to", "d"]]
    assert read_commands(["tools", "run", "resize", "--data", "d"]) == [["tools", "run", "resize", "--data", "d"]]


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ([], "no command"),
        (["status"], "cannot be run on a fleet"),
        (["tools", "list"], "cannot be run on a fleet"),
        (["launch", "mpi", "--", "get", "x"], "cannot be run on a fleet"),
        (["fetch", "x"], "invalid choice: 'fetch'"),
        (["get", "x", "--too", "y"], "unrecognized arguments: --too y"),
        (["get", "x", "--coordinator", "c:1"], "runs already"),
        (["--insecure", "get", "x"], "runs already"),
        (["get", "--help"], "not a command"),
        ([""], "invalid choice"),
        (["shoal"], "cannot be run"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_starts(
    words: list[str], cause: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=cause):
        read_commands(words)
    assert capfd.readouterr() == ("", ""), "the error says it all"


def test_more_commands_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "jobs"
    file.write_text("# models\nget hf://acme/a --to 'a b'  # the first\n\n  shoal get hf://acme/b --to c\n")
    expected = [["get", "hf://acme/a", "--to", "a b"], ["get", "hf://acme/b", "--to", "c"]]
    assert read_commands([], str(file)) == expected
    assert read_commands(["get", "x"], str(file)) == [["get", "x"], *expected]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"get x\nget 'y\n", r"jobs:2: get 'y.*quotation"),
        (b"get x\nstatus\n", r"jobs:2: status: status cannot"),
        (b"# nothing\n", "no command"),
        (b"get \xff\n", "--jobs .*decode"),
    ],
)
def test_a_bad_file_is_refused_by_line(tmp_path: Path, text: bytes, told: str) -> None:
    (tmp_path / "jobs").write_bytes(text)
    with pytest.raises(UsageError, match=told):
        read_commands([], str(tmp_path / "jobs"))
    with pytest.raises(UsageError, match="No such file"):
        read_commands([], str(tmp_path / "absent"))


def test_one_exit_code_for_all() -> None:
    assert merged_code([]) == merged_code([0, 0]) == 0
    assert merged_code([0, 3, 3]) == 3
    assert merged_code([3, 6]) == 1
