"""What becomes of a job that was told to stop: it ends here, or Slurm is asked to start it again where it stopped.

A signal comes for one of four reasons, and none of them says which it was:

=======================  ==========================  =================================================
reason                   who starts the job again    what is done here
=======================  ==========================  =================================================
time runs out            nobody                      CONTINUE, if the chain has a link left
preemption, requeue      Slurm, with the same id     STOP: the state is kept, the next run finds it
``scancel``              a person, or nobody         STOP
a person's Ctrl+C        a person, or nobody         STOP
=======================  ==========================  =================================================

So the time that is left decides. Slurm's warning (``--signal``) comes up to SLACK_S early (sbatch(1)).
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from ..common.errors import UsageError

SLACK_S = 60.0
"""By how much a warning may be early: the resolution of Slurm's events, as sbatch(1) has it under --signal."""

LATE_S = 15.0
"""And by how much it may reach us late: a busy node, a process that was slow to be told."""

CHAIN_MAX = 1000

_SIGNAL = re.compile(r"(?:R?B?R?:)?(?:SIG)?(TERM|USR1|INT|15|10|2)(?:@([0-9]{1,5}))?")


class Next(enum.Enum):
    """What follows a run."""

    END = "end"  # with the exit code of what was done
    STOP = "stop"  # interrupted; whoever starts it again goes on
    CONTINUE = "continue"  # time is out: Slurm is asked to start it again
    EXHAUSTED = "exhausted"  # time is out, and so is the chain


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run of a job that ended.

    Args: stopped says that it was told to stop before it had done all; left_s is the time that the job had left then (seconds),
    None where it is not limited; warning_s is how long before its end Slurm warns; continuations have been asked for before, of chain.
    """

    stopped: bool
    left_s: float | None
    warning_s: float
    continuations: int = 0
    chain: int = 0


def next_of(run: Run) -> Next:
    """What follows. A run that did all it had to is over, well or badly: what failed for good fails again, so it is not continued."""
    if not run.stopped:
        return Next.END
    if run.left_s is None or run.left_s > run.warning_s + SLACK_S + LATE_S:
        return Next.STOP
    if run.continuations < run.chain:
        return Next.CONTINUE
    return Next.EXHAUSTED if run.chain else Next.STOP


def warning_s(signal: str) -> float:
    """How many seconds before the end ``--signal`` warns: 120 for ``B:TERM@120``. Without a number it is Slurm's 60.

    Raises UsageError for one that Shoal would not get or not obey.
    """
    match = _SIGNAL.fullmatch(signal)
    if match is None or "B" not in signal.partition(":")[0] or ":" not in signal:
        raise UsageError(
            f"--signal {signal}",
            cause="it must go to the batch process (B:) and be TERM, USR1 or INT",
            remedy="for example --signal B:TERM@120",
        )
    return float(match[2] or 60)
