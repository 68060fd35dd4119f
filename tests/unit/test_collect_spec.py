"""Every setting of ``[collect]`` ends up in what agents and coordinator are told, and everything that they are told is used."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from shoal.client.collecting import collect_spec
from shoal.common.collect_records import CollectSpec, Resampler, collect_spec_from
from shoal.common.errors import ProtocolViolation
from shoal.common.settings import load_settings
from shoal.common.settings_table import SECTIONS
from shoal.common.wire_collect import decode_collect_spec, encode_collect_spec

ROOT = Path(__file__).parents[2]
OTHERWISE = {"input", "output", "image_workers"}
"""Where the table and the dataset are is the request's; how many processes decode is each agent's own affair."""
(COLLECT,) = [section for section in SECTIONS if section.name == "collect"]
OTHER_VALUES = {
    "columns": {"uuid": "id"},
    "carry": ["species"],
    "content": "any",
    "image_encoding": "png",
    "resampler": "pillow",
    "format": "files",
    "robots": True,
    "respect_ai_opt_out": True,
    "allow_private_addresses": True,
    "user_agent": "me",
    "contact": "https://me.example",
    "rate_multiplier": 0.25,
}


def spec_with(**values: Any) -> CollectSpec:
    overrides = {f"collect.{key}": value for key, value in values.items()}
    return collect_spec(load_settings(environ={}, cwd=Path("/nowhere"), overrides=overrides), ["t.csv"])


@pytest.mark.parametrize("key", sorted({key.name for key in COLLECT.table()} - OTHERWISE))
def test_a_setting_has_an_effect(key: str) -> None:
    value = OTHER_VALUES.get(key, "7")
    assert spec_with(**{key: value}) != spec_with()


@pytest.mark.parametrize("name", [field.name for field in fields(CollectSpec)])
def test_what_is_told_is_used(name: str) -> None:
    used = re.compile(rf"\b(?:spec|_spec|collect)\.{name}\b")
    sources = [path for part in ("agent", "coordinator") for path in (ROOT / part).rglob("*.py")]
    assert any(used.search(path.read_text(encoding="utf-8")) for path in sources), f"nobody looks at {name}"


def test_who_asks_is_named_with_a_contact() -> None:
    assert spec_with(contact="https://me.example").user_agent.endswith("(+https://me.example)")
    assert spec_with(contact="https://me.example", user_agent="bot/1").user_agent == "bot/1"


def test_a_job_from_before_there_was_a_choice_keeps_its_digests() -> None:
    spec = spec_with()
    assert spec.resampler is Resampler.OPENCV
    stored = asdict(spec)
    assert collect_spec_from(json.loads(json.dumps(stored))).resampler is Resampler.OPENCV
    del stored["resampler"]
    assert collect_spec_from(json.loads(json.dumps(stored))).resampler is Resampler.PILLOW
    message = encode_collect_spec(spec)
    assert message is not None and decode_collect_spec(message).resampler is Resampler.OPENCV
    message.ClearField("resampler")
    assert decode_collect_spec(message).resampler is Resampler.PILLOW
    message.resampler = 99  # type: ignore[assignment]
    with pytest.raises(ProtocolViolation, match="resampler"):
        decode_collect_spec(message)
