"""The process that a backend runs in: ``python -m shoal.agent.backend_child`` with one JSON object on standard input.

hf_transfer keeps Python's interpreter lock while it downloads, which would stop the agent's heartbeats; and neither it nor the Hub's
library can be told to stop, which a process can. The order comes by standard input because command lines are for all to see.

Exit code 0: the file is there. Else the last line of standard error says why not.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

_CHUNK_BYTES = 10 << 20  # these three are what hf_transfer's own callers use
_PARALLEL_FAILURES = 3
_MAX_RETRIES = 5
_PR_SET_PDEATHSIG = 1  # prctl(2)


def main() -> int:
    """Do what standard input says."""
    _die_with_parent()
    order: dict[str, Any] = json.load(sys.stdin)
    work = {"hf_transfer": _by_hf_transfer, "hub": _by_hub_library}[order.pop("backend")]
    try:
        work(**order)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}".replace("\n", " ")[:2000], file=sys.stderr)
        return 1
    return 0


def _by_hf_transfer(*, url: str, to: str, headers: dict[str, str], connections: int) -> None:
    from hf_transfer import download  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]

    download(
        url,
        to,
        connections,
        _CHUNK_BYTES,
        parallel_failures=min(_PARALLEL_FAILURES, connections - 1),
        max_retries=_MAX_RETRIES,
        headers=headers,
    )


def _by_hub_library(
    *, repo_id: str, path: str, repo_type: str, revision: str, endpoint: str, token: str, to: str, folder: str
) -> None:
    from huggingface_hub import hf_hub_download  # pyright: ignore[reportUnknownVariableType]
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    found = hf_hub_download(
        repo_id,
        path,
        repo_type=repo_type or None,
        revision=revision or None,
        local_dir=folder,
        endpoint=endpoint or None,
        token=token or False,
    )
    Path(found).replace(to)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    raise SystemExit(main())
