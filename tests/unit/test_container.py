"""The container's files, read by a linter and by the compose specification; what they promise of each other."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from shoal.client.options import build_parser
from shoal.common.settings import load_settings
from support.cli import installed
from support.container import DOCKERFILE, ROOT, environment, instructions

COMPOSE = ROOT / "container/compose.yaml"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))


def test_the_linter_has_nothing_to_say() -> None:
    run = subprocess.run(
        [installed("hadolint"), "--no-color", str(DOCKERFILE)], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_image_is_what_is_promised() -> None:
    found = instructions()
    stages = [arguments for name, arguments in found if name == "FROM"]
    assert len(stages) == 2
    assert all(re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+(?: AS build)?", stage) for stage in stages), "pinned by tag"
    last = found[max(at for at, (name, _) in enumerate(found) if name == "FROM") :]
    named = dict(last)
    assert named["USER"] == "10001:10001"
    assert json.loads(named["ENTRYPOINT"]) == ["shoal"], "no shell between the engine and the daemon"
    assert json.loads(named["VOLUME"]) == ["/models", "/var/lib/shoal"]
    assert named["STOPSIGNAL"] == "SIGTERM"
    assert "HEALTHCHECK" in named and "LABEL" in named
    built = " ".join(arguments for name, arguments in last if name == "RUN")
    assert "pip" not in built and "apt-get" not in built, "nothing is installed in the last stage"


def test_the_image_runs_commands_that_there_are() -> None:
    named = dict(instructions())
    check = json.loads(named["HEALTHCHECK"].partition("CMD ")[2])
    for words in (json.loads(named["CMD"]), check[1:]):
        build_parser().parse_args(words)


def test_the_images_environment_is_of_settings_that_there_are(tmp_path: Path) -> None:
    given = {name: value for name, value in environment().items() if name.startswith(("SHOAL_", "HF_"))}
    settings = load_settings(environ={**given, "HOME": str(tmp_path)}, cwd=tmp_path)
    assert str(settings.hub.cache) == "/models/hub"
    assert [str(root) for root in settings.library.roots] == ["/models"]
    assert str(settings.coordinator.state) == "/var/lib/shoal"
    used = {settings.coordinator.state, settings.agent.data, settings.library.state}
    assert all(path.is_relative_to("/var/lib/shoal") for path in used), "on the volume"


def test_what_is_copied_is_sent_to_the_engine() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        source
        for name, arguments in instructions()
        if name == "COPY" and not arguments.startswith("--from")
        for source in arguments.split()[:-1]
    }
    assert copied == sent
    assert all((ROOT / source).exists() for source in copied)


def test_the_compose_file_is_valid(compose: dict[str, Any]) -> None:
    import compose_spec

    found = compose_spec.PyCompose.from_json(json.dumps(compose))
    found.validate()
    found.to_spec()
    with pytest.raises(ValueError, match="imaeg"):
        compose_spec.PyCompose.from_json(json.dumps({"services": {"a": {"imaeg": "x"}}}))


def test_services_may_do_no_more_than_they_need(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {"coordinator", "agent-1", "agent-2"}
    states: list[str] = []
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert service["user"] == "10001:10001", name
        assert service["healthcheck"]["test"][0] == "CMD", name
        mounted = dict(volume.split(":") for volume in service["volumes"])
        assert mounted["models"] == "/models", name
        states += [volume for volume, path in mounted.items() if path == "/var/lib/shoal"]
        assert not any("TOKEN" in key and not key.endswith("_FILE") for key in service["environment"]), "by file alone"
    assert sorted(states) == ["agent-1", "agent-2", "coordinator"], "a journal belongs to one agent"
    assert all(port.startswith("127.0.0.1:") for port in services["coordinator"]["ports"])


def test_services_run_commands_with_settings_that_there_are(compose: dict[str, Any], tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    ports: list[str] = []
    for service in compose["services"].values():
        options = build_parser().parse_args(service["command"])
        build_parser().parse_args(service["healthcheck"]["test"][2:])
        environ = {"HOME": str(tmp_path), **service["environment"]}
        load_settings(environ=environ, cwd=tmp_path)
        ports.append(getattr(options, "peer_listen", None) or options.listen)
    assert len(set(ports)) == len(ports), "they share one network"
