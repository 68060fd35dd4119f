"""How a person speaks to Shoal: command line, Python API, embedded mode.

::

    from shoal.client import Client, DownloadRequest, download, download_distributed

    result = download("hf://ORG/NAME", to="models/NAME")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .api import FetchedFile, Result, download
    from .collect_api import collect
    from .collecting import Collected
    from .distributed import async_download_distributed, download_distributed
    from .requests import DeliveryFailed, DistributedResult, DownloadRequest, FailedRequest
    from .sdk import AsyncClient, AsyncJob, JobResult
    from .sdk_sync import Client, Job
    from .tools_api import apply_tool

_HOMES = {
    "collect_api": ("collect",),
    "collecting": ("Collected",),
    "api": ("FetchedFile", "Result", "download"),
    "distributed": ("async_download_distributed", "download_distributed"),
    "requests": ("DeliveryFailed", "DistributedResult", "DownloadRequest", "FailedRequest"),
    "sdk": ("AsyncClient", "AsyncJob", "JobResult"),
    "sdk_sync": ("Client", "Job"),
    "tools_api": ("apply_tool",),
}

__all__ = [
    "AsyncClient",
    "AsyncJob",
    "Client",
    "Collected",
    "DeliveryFailed",
    "DistributedResult",
    "DownloadRequest",
    "FailedRequest",
    "FetchedFile",
    "Job",
    "JobResult",
    "Result",
    "apply_tool",
    "async_download_distributed",
    "collect",
    "download",
    "download_distributed",
]


def __getattr__(name: str) -> object:
    # The API pulls in both daemons; `shoal --help` imports this package too and must not pay for them.
    for module, names in _HOMES.items():
        if name in names:
            from importlib import import_module

            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
