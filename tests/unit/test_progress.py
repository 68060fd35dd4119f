"""What people see while they wait."""

from __future__ import annotations

import io
from dataclasses import replace

from shoal.client.describing import chunk_map
from shoal.client.progress import FILES_SHOWN, PLAIN_EVERY_S, Bars, PlainLines, open_display
from shoal.common.views import ActiveObjectView, JobStatus, JobView

MIB = 1 << 20
JOB = JobView(
    job_id="j1",
    uri="hf://acme/tiny",
    status=JobStatus.RUNNING,
    created_at=0.0,
    objects_total=20,
    bytes_total=100 * MIB,
    bytes_arrived=25 * MIB,
)


class Terminal(io.StringIO):
    """Standard error that is a terminal."""

    def isatty(self) -> bool:
        return True


def active(number: int, *, path: str = "", size: int | None = None) -> ActiveObjectView:
    return ActiveObjectView(
        object_id=number, path=path or f"file-{number:02}", size=size or (number + 1) * MIB, done_bytes=MIB // 2
    )


def test_the_display_suits_where_it_goes() -> None:
    assert isinstance(open_display(io.StringIO()), PlainLines)
    assert isinstance(open_display(Terminal()), Bars)


def test_a_pipe_gets_a_line_at_most_every_10_s() -> None:
    out, now = io.StringIO(), 100.0
    with PlainLines(out, lambda: now) as display:
        display.show([JOB])
        assert out.getvalue() == "", "a job that ends soon says nothing on the way"
        now += PLAIN_EVERY_S
        display.show([JOB, replace(JOB, job_id="j2", uri="hf://acme/b")])
        display.show([JOB])
        assert [line.partition(": ")[0] for line in out.getvalue().splitlines()] == ["hf://acme/tiny", "hf://acme/b"]
        now += PLAIN_EVERY_S - 0.1
        display.show([JOB])
        assert len(out.getvalue().splitlines()) == 2
        now += 0.1
        display.show([replace(JOB, status=JobStatus.DONE)])
        assert len(out.getvalue().splitlines()) == 2, "a job that has ended is not in progress"
    assert "\x1b" not in out.getvalue() and "\r" not in out.getvalue()


def test_bars_for_the_job_and_its_largest_files(monkeypatch: object) -> None:
    out = Terminal()
    with Bars(out) as bars:
        bars.show([replace(JOB, active=tuple(active(number) for number in range(FILES_SHOWN + 3)))])
        shown = {task.description.strip() for task in bars._progress.tasks}  # pyright: ignore[reportPrivateUsage]
        assert shown == {"hf://acme/tiny  running 0/20"} | {f"file-{number:02}" for number in range(3, FILES_SHOWN + 3)}
        bars.show([replace(JOB, active=(active(8),), objects_done=19, objects_failed=1)])
        shown = {task.description.strip() for task in bars._progress.tasks}  # pyright: ignore[reportPrivateUsage]
        assert shown == {"hf://acme/tiny  running 19/20, 1 failed", "file-08"}
        job = bars._progress.tasks[0]  # pyright: ignore[reportPrivateUsage]
        assert (job.completed, job.total) == (25 * MIB, 100 * MIB)
    text = out.getvalue()
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l"), "the cursor is shown again"


def test_bars_survive_hostile_and_long_names_and_unknown_sizes() -> None:
    out = Terminal()
    nasty = [active(1, path="[red]x[/red]\x1b[2J"), active(2, path="d/" * 100 + "end"), active(3, path="[/]")]
    unknown = ActiveObjectView(object_id=9, path="unknown", size=None, done_bytes=5)
    with Bars(out) as bars:
        bars.show([replace(JOB, uri="hf://acme/[bold]", bytes_total=0, active=(*nasty, unknown))])
        shown = [task.description.strip() for task in bars._progress.tasks]  # pyright: ignore[reportPrivateUsage]
    assert "[red]x[/red]\\x1b[2J" in shown
    assert max(map(len, shown)) <= 40
    assert any(text.startswith("…") and text.endswith("end") for text in shown)
    assert "\x1b[2J" not in out.getvalue()


def test_the_chunk_map_of_a_file() -> None:
    assert chunk_map([], 100, 10) == ".........."
    assert chunk_map([(0, 100)], 100, 10) == "##########"
    assert chunk_map([(0, 15), (95, 100)], 100, 10) == "#+.......+"
    assert chunk_map([(10, 15), (15, 20)], 100, 10) == ".#........", "two neighbours make a whole cell"
    assert chunk_map([(0, 3)], 3, 10).count(".") == 10 - chunk_map([(0, 3)], 3, 10).count("#")
    assert chunk_map([], None, 10) == chunk_map([], 0, 10) == "." * 10
    assert chunk_map([(90, 200)], 100, 10) == ".........#"
