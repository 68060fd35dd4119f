"""docs/operations.md names every warning and error that the log can hold, and nothing that it cannot."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("common", "coordinator", "agent", "client", "tools", "slurm")
MADE = {
    "certificate.expiring",
    "certificate.expired",
    "certificate.not_yet_valid",
}  # of a state: common/certificates.py


def logged() -> set[str]:
    """The actions of all events of these levels, as they stand in the code."""
    found: set[str] = set()
    for path in (path for part in PARTS for path in (ROOT / part).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name) and node.args:
                name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
                first = node.args[0]
                is_event = isinstance(first, ast.Constant) and re.fullmatch(r"[a-z_]+\.[a-z_]+", str(first.value))
                if name in ("warning", "error", "exception", "write") and is_event:
                    found.add(str(first.value))
    return found | MADE


def test_every_alarm_has_a_line_that_says_what_to_do() -> None:
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    told = {name for row in rows for name in re.findall(r"`([a-z_]+\.[a-z_]+)`", row.split("|")[1])}
    events = logged()
    assert len(events) > 30
    assert told == events, f"missing: {sorted(events - told)}; not logged: {sorted(told - events)}"
    for row in rows:
        assert all(cell.strip() for cell in row.strip("|").split("|")), row
