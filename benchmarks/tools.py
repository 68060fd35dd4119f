"""The tools that are compared: how each is told to fetch one repo."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from .measure import RunFailed
from .origin import Origin, Repo

SCRIPTS = Path(sys.executable).parent
HF_TRANSFER_CLIENT = Path(__file__).with_name("hf_transfer_client.py")
HF_TRANSFER_THREADS = 8  # as many files at a time as the Hub's client gives it
CONNECTIONS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One fetch. Args: target (an empty folder for the files), scratch (an empty folder for anything else: HOME, lists)."""

    origin: Origin
    repo: Repo
    target: Path
    scratch: Path

    @property
    def urls(self) -> list[tuple[str, str]]:
        """Each file's final URL and its path. Tools that take URLs are spared the listing and the redirects."""
        return [(self.origin.file_url(self.repo, file), file.path) for file in self.repo.files]


def environment(home: Path, origin: Origin) -> dict[str, str]:
    """What every program gets: nothing of the caller's configuration, credentials or proxies."""
    return {
        "PATH": f"{SCRIPTS}:{os.environ.get('PATH', os.defpath)}",
        "HOME": str(home),
        "TMPDIR": str(home),
        "LANG": "C.UTF-8",
        "HF_ENDPOINT": origin.hub_url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    }


def shoal(task: Task) -> list[str]:
    return [str(SCRIPTS / "shoal"), "get", f"hf://{task.repo.repo_id}", "--to", str(task.target)]


def hf_download(task: Task) -> list[str]:
    return [str(SCRIPTS / "hf"), "download", task.repo.repo_id, "--local-dir", str(task.target)]


def curl(task: Task) -> list[str]:
    config = task.scratch / "curl.conf"
    config.write_text("".join(f'url = "{url}"\noutput = "{task.target / path}"\n' for url, path in task.urls))
    parallel = ["-Z", "--parallel-max", str(CONNECTIONS)] if len(task.urls) > 1 else []
    return ["curl", "-q", "-s", "-S", "--no-progress-meter", "-f", *parallel, "-K", str(config)]


def aria2c(task: Task) -> list[str]:
    listing = task.scratch / "aria2.txt"
    listing.write_text("".join(f"{url}\n  out={path}\n" for url, path in task.urls))
    many = len(task.urls) > 1
    shape = [f"-j{CONNECTIONS}"] if many else [f"-x{CONNECTIONS}", f"-s{CONNECTIONS}", "-k1M"]
    quiet = ["--no-conf", "-q", "--file-allocation=none", "--auto-file-renaming=false"]
    return ["aria2c", *quiet, *shape, "-d", str(task.target), "-i", str(listing)]


def hf_transfer(task: Task) -> list[str]:
    listing = task.scratch / "hf_transfer.txt"
    listing.write_text("".join(f"{url}\t{task.target / path}\n" for url, path in task.urls))
    return [sys.executable, str(HF_TRANSFER_CLIENT), str(listing), str(min(HF_TRANSFER_THREADS, len(task.urls)))]


REFERENCE = "shoal"
TOOLS: Mapping[str, Callable[[Task], list[str]]] = {
    REFERENCE: shoal,
    "curl": curl,
    "aria2c": aria2c,
    "hf_transfer": hf_transfer,
    "hf download": hf_download,
}


def verify(task: Task) -> None:
    """Check every file that was fetched. Raises RunFailed for a missing or wrong one."""
    for file in task.repo.files:
        try:
            with (task.target / file.path).open("rb") as fetched:
                digest = hashlib.file_digest(fetched, "sha256").hexdigest()
        except OSError as error:
            raise RunFailed(f"{file.path}: {error.strerror}") from None
        if digest != file.sha256:
            raise RunFailed(f"{file.path}: its bytes are wrong")


def find_nginx() -> str | None:
    """nginx's binary; it is often outside of a user's PATH."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def missing() -> list[str]:
    """Commands that the benchmark needs and this machine lacks."""
    found = {"nginx": find_nginx(), "curl": shutil.which("curl"), "aria2c": shutil.which("aria2c")}
    found |= {name: shutil.which(str(SCRIPTS / name)) for name in ("shoal", "hf")}
    return [name for name, path in found.items() if path is None]


def versions() -> dict[str, str]:
    """What was compared."""
    return {
        "shoal": version("shoal"),
        "curl": _said("curl", "--version").split()[1],
        "aria2c": _said("aria2c", "--version").split()[2],
        "hf_transfer": version("hf_transfer"),
        "huggingface_hub": version("huggingface_hub"),
        "nginx": nginx_version(),
        "python": sys.version.split()[0],
    }


def nginx_version() -> str:
    """The version of the origin's server."""
    return _said(find_nginx() or "nginx", "-v").rpartition("/")[2].strip()


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    return done.stdout or done.stderr
