"""``shoal doctor --json`` as tests read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cli import Finished, Shoal


@dataclass(frozen=True)
class Row:
    """One finding."""

    check: str
    subject: str
    result: str
    seen: str
    remedy: str
    exit_code: int


@dataclass(frozen=True)
class Diagnosis:
    """One run."""

    finished: Finished
    rows: list[Row]

    def of(self, check: str) -> list[Row]:
        """The rows of a check."""
        return [row for row in self.rows if row.check == check]

    def only(self, check: str) -> Row:
        """The one row of a check."""
        found = self.of(check)
        assert len(found) == 1, found
        return found[0]

    def failed(self, check: str, *, exit_code: int) -> Row:
        """The one failed row of a check, if that decided the exit code."""
        found = [row for row in self.of(check) if row.result == "failed"]
        assert len(found) == 1, self.rows
        assert found[0].remedy, found[0]
        assert self.finished.exit_code == exit_code, self.rows
        return found[0]


def diagnose(shoal: Shoal, *arguments: str | Path, only: str, environ: Mapping[str, str] | None = None) -> Diagnosis:
    """Run some checks. Fails unless the document is whole and agrees with the exit code."""
    finished = shoal.run("doctor", *arguments, "--only", only, "--json", environ=environ)
    document: dict[str, Any] = finished.document()
    assert document["exit_code"] == finished.exit_code, finished
    assert document["ok"] == (finished.exit_code == 0)
    fields = Row.__dataclass_fields__
    rows = [Row(**{name: row[name] for name in fields}) for row in document["checks"]]
    assert {row.check for row in rows} == set(only.split(",")), "a check said nothing"
    for row in rows:
        assert row.result in ("ok", "skipped") or row.remedy, f"no remedy: {row}"
    return Diagnosis(finished, rows)
