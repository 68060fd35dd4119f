"""Who an agent is, across restarts, and that only one process is it at a time."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from shoal.agent.identity import data_folder
from shoal.common.errors import Busy, ExitCode, NotWritable, StateDamaged


def test_an_agent_keeps_its_id(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "data"
    with data_folder(folder) as first:
        assert re.fullmatch(r"[0-9a-f]{32}", first)
    with data_folder(folder) as again:
        assert again == first


def test_two_folders_are_two_agents(tmp_path: Path) -> None:
    with data_folder(tmp_path / "a") as one, data_folder(tmp_path / "b") as other:
        assert one != other


def test_the_second_process_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    with data_folder(tmp_path) as first:
        with pytest.raises(Busy) as refused, data_folder(tmp_path):
            pass
        assert f"process {os.getpid()} on " in refused.value.cause
        assert "--data" in refused.value.remedy
        assert refused.value.exit_code == ExitCode.FAILED
    with data_folder(tmp_path) as again:
        assert again == first


def test_the_folder_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), data_folder(tmp_path):
        raise ZeroDivisionError
    with data_folder(tmp_path):
        pass


def test_the_folder_is_private(tmp_path: Path) -> None:
    with data_folder(tmp_path / "data"):
        assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "data/lock").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"me", b"0" * 31, b"0" * 33, b"G" * 32, b"\xff" * 32, b"0" * 32 + b"\n0"])
def test_a_damaged_id_is_not_taken_for_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "id").write_bytes(content)
    with pytest.raises(StateDamaged) as refused, data_folder(tmp_path):
        pass
    assert str(tmp_path / "id") in str(refused.value)
    (tmp_path / "id").unlink()
    with data_folder(tmp_path):
        pass


def test_an_id_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "id").mkdir()
    with pytest.raises(StateDamaged, match="id"), data_folder(tmp_path):
        pass


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(NotWritable) as refused, data_folder(tmp_path / "data"):
        pass
    assert refused.value.exit_code == ExitCode.NO_SPACE
    assert "--data" in refused.value.remedy
