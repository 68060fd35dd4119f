"""shoal config init, show, check and path."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from shoal.client.config_cmd import config_check, config_init, config_path, config_show
from shoal.common.errors import ExitCode, NotWritable, UsageError
from shoal.common.settings import load_settings


def test_init_writes_a_sample_that_check_accepts(tmp_path: Path) -> None:
    path = tmp_path / "new/shoal.toml"
    assert str(path) in config_init(path).text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert config_check(path, config_file=None, environ={}, cwd=tmp_path).exit_code == ExitCode.OK


def test_init_does_not_replace_a_file_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "shoal.toml"
    path.write_text("mine")
    with pytest.raises(UsageError, match="--force"):
        config_init(path)
    assert path.read_text() == "mine"
    config_init(path, force=True)
    assert "[fetch]" in path.read_text()
    with pytest.raises(NotWritable):
        config_init(path / "below.toml")


def test_init_does_not_write_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "shoal.toml").symlink_to(tmp_path / "victim")
    config_init(tmp_path / "shoal.toml", force=True)
    assert (tmp_path / "victim").read_text() == "precious"


def test_show_prints_every_value_and_its_origin_but_no_secret(tmp_path: Path) -> None:
    (tmp_path / "shoal.toml").write_text(
        "[fetch]\nattempts = 5\nproxy = 'http://u:hunter2@p'\n[hosts.'a.b']\nrate = 2\n"
    )
    environ = {"HOME": "/h", "HF_TOKEN": "hf_hunter2", "SHOAL_FETCH_ATEMPTS": "1"}
    settings = load_settings(environ=environ, cwd=tmp_path, overrides={"log.level": "debug"})
    text = config_show(settings, environ=environ).text
    lines = {line.partition("  #")[0].strip(): line.partition("# ")[2] for line in text.splitlines()}
    assert lines["fetch.attempts = 5"] == f"{tmp_path}/shoal.toml:2"
    assert lines["hosts.a.b.rate = 2.0"] == f"{tmp_path}/shoal.toml:5"
    assert lines['log.level = "debug"'] == "command line"
    assert lines['hub.token = "***"'] == "environment variable HF_TOKEN"
    assert lines['security.token = ""'] == "default"
    assert lines['agent.memory_limit = "512MiB"'] == "default"
    assert "SHOAL_FETCH_ATEMPTS is no setting" in text
    assert "hunter2" not in text

    document = json.loads(config_show(settings, environ=environ, as_json=True).text)
    assert document["config_file"] == str(tmp_path / "shoal.toml")
    assert document["settings"]["fetch.attempts"] == {"value": 5, "origin": f"{tmp_path}/shoal.toml:2"}
    assert document["settings"]["hub.token"]["value"] == "***"
    assert document["ignored_variables"] == ["SHOAL_FETCH_ATEMPTS"]
    assert "hunter2" not in json.dumps(document)
    assert len(document["settings"]) == len(lines) - 1


def test_check_lists_every_problem_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("[fetch]\natempts = 5\n\nsync = 'maybe'\n[later]\n")
    outcome = config_check(path, config_file=None, environ={}, cwd=tmp_path)
    assert outcome.exit_code == ExitCode.USAGE
    assert sorted(outcome.text.splitlines()) == [
        f"{path}:2: fetch.atempts: unknown key (did you mean fetch.attempts?)",
        f"{path}:4: fetch.sync: 'maybe' must be true or false",
        f"{path}:5: later: unknown section (shoal config init writes a sample with every key)",
    ]


def test_check_without_a_file_takes_the_one_in_use(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path)}
    with pytest.raises(UsageError, match="there is none"):
        config_check(None, config_file=None, environ=environ, cwd=tmp_path)
    (tmp_path / "shoal.toml").write_text("fetch.attempts = 'x'")
    assert config_check(None, config_file=None, environ=environ, cwd=tmp_path).exit_code == ExitCode.USAGE
    with pytest.raises(UsageError, match="No such file"):
        config_check(Path("none.toml"), config_file=None, environ=environ, cwd=tmp_path)


def test_the_environment_does_not_hide_a_problem_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("fetch.attempts = 'x'")
    environ = {"SHOAL_FETCH_ATTEMPTS": "3"}
    assert config_check(path, config_file=None, environ=environ, cwd=tmp_path).exit_code == ExitCode.USAGE


def test_path_tells_which_file_is_used(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path / "home")}
    user = tmp_path / "home/.config/shoal/config.toml"
    user.parent.mkdir(parents=True)
    user.write_text("")
    text = config_path(config_file=None, environ=environ, cwd=tmp_path).text
    assert text.splitlines()[:2] == [f"{tmp_path}/shoal.toml  # not there", f"{user}  # used"]
    (tmp_path / "shoal.toml").write_text("")
    text = config_path(config_file=None, environ=environ, cwd=tmp_path).text
    assert text.splitlines()[:2] == [f"{tmp_path}/shoal.toml  # used", f"{user}  # not used"]
    assert config_path(config_file=Path("x"), environ=environ, cwd=tmp_path).text == f"{tmp_path}/x  # not there"
