"""The Dockerfile as instructions, for tests that do by hand what an engine would do."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "container/Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """Name and arguments of every instruction, with continued lines joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(name, " ".join(arguments.split())) for name, _, arguments in (line.partition(" ") for line in lines)]


def environment() -> dict[str, str]:
    """What the image sets."""
    words = [word for name, arguments in instructions() if name == "ENV" for word in shlex.split(arguments)]
    return dict(word.split("=", 1) for word in words)
