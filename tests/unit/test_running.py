"""Which error of a command's task groups a person is told of."""

from __future__ import annotations

import asyncio

import pytest

from shoal.client.main import main
from shoal.client.running import run
from shoal.common.errors import ExitCode, NoSpace, NotFound, ShoalError


async def _raise(error: BaseException) -> None:
    raise error


async def _grouped(*errors: Exception) -> None:
    async with asyncio.TaskGroup() as tasks:
        for error in errors:
            tasks.create_task(_raise(error))


def test_the_result_is_passed_on() -> None:
    async def answer() -> int:
        return 42

    assert run(answer()) == 42


def test_a_plain_error_is_passed_on() -> None:
    with pytest.raises(NotFound):
        run(_raise(NotFound("x")))
    with pytest.raises(ZeroDivisionError):
        run(_raise(ZeroDivisionError()))


def test_the_first_error_of_ours_is_taken_out_of_its_groups() -> None:
    async def nested() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_grouped(NoSpace("disk"), NotFound("later")))

    with pytest.raises(NoSpace) as caught:
        run(nested())
    assert isinstance(caught.value.__cause__, BaseExceptionGroup), "the whole story stays with it"


def test_ours_is_found_beside_defects() -> None:
    with pytest.raises(ShoalError):
        run(_grouped(ValueError("a defect"), NotFound("x")))


def test_a_group_of_defects_stays_a_group() -> None:
    with pytest.raises(ExceptionGroup):
        run(_grouped(ValueError("a defect")))


@pytest.mark.parametrize(
    ("raised", "exit_code", "text"),
    [
        (NotFound("repo x", cause="gone", remedy="look"), ExitCode.NO_ACCESS, "shoal: repo x: gone (look)\n"),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED, "shoal: interrupted\n"),
    ],
)
def test_errors_become_exit_codes(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raised: BaseException,
    exit_code: int,
    text: str,
) -> None:
    def command(options: object, given: object) -> int:
        raise raised

    monkeypatch.setattr("shoal.client.main.run_command", command)
    assert main(["jobs"]) == exit_code
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", text)
    assert main(["jobs", "--json"]) == exit_code
    assert '"error"' in capsys.readouterr().out


def test_no_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert captured.out == "" and "commands:" in captured.err
