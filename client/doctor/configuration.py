"""Settings and packages."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

from ...common.errors import ExitCode
from ...common.installed import is_installed
from ...common.settings_sources import Rank, unknown_variables
from ...common.uri import S3Uri
from ...common.version import VERSION
from .records import Finding, failed, ok, warning

if TYPE_CHECKING:
    from ...common.settings import Settings
    from .visit import Visit

PYTHON_MIN: Final = (3, 11)  # pyproject.toml
REQUIRED: Final = {
    "grpcio": "grpc",
    "protobuf": "google.protobuf",
    "huggingface_hub": "huggingface_hub",
    "blake3": "blake3",
}
"""Distribution -> module, of what nothing works without."""


async def check_config(visit: Visit) -> list[Finding]:
    """Unknown keys, bad values, contradictions, in the file, the environment and the command line."""
    settings = visit.settings
    found = [
        failed(
            problem.cause,
            subject=f"{problem.name} ({problem.origin})",
            remedy=problem.remedy or "docs/configuration.md says what it takes",
            exit_code=ExitCode.USAGE,
        )
        for problem in visit.wishes.problems
    ]
    for name in unknown_variables(visit.wishes.environ):
        remedy = "unset it, or correct its name: shoal config show lists the settings"
        found.append(warning("it looks like a setting and is none: it is ignored", subject=name, remedy=remedy))
    where = str(settings.config_file) if settings.config_file else "no file, all from defaults and the environment"
    return found or [ok(f"{where}: no problems")]


async def check_packages(visit: Visit) -> list[Finding]:
    """Python, Shoal, what it cannot do without, and the extras that this configuration needs."""
    findings = [judge_python(sys.version_info[:3])]
    missing = [name for name, module in REQUIRED.items() if not is_installed(module)]
    findings += [
        failed("it is not installed", subject=name, remedy="pip install shoal again", exit_code=ExitCode.USAGE)
        for name in missing
    ]
    findings += [
        judge_extra(*extra) for extra in extras(visit.settings, visit.wishes.uris) if not is_installed(extra[0])
    ]
    if not is_installed("uvloop"):
        seen = "not installed: the coordinator and agents handle about half as many messages a second"
        findings.append(warning(seen, subject="uvloop", remedy="pip install uvloop"))
    return findings


def judge_python(found: tuple[int, ...]) -> Finding:
    """The interpreter, with the versions of what matters beside it."""
    text = ".".join(map(str, found))
    if found < PYTHON_MIN:
        remedy = f"use Python {'.'.join(map(str, PYTHON_MIN))} or later"
        return failed(f"Python {text} is too old", remedy=remedy, exit_code=ExitCode.USAGE)
    shown = [f"{name} {here}" for name in ("grpcio", "huggingface_hub", "uvloop") if (here := _version(name))]
    return ok(f"Shoal {VERSION}, {platform.python_implementation()} {text}, {', '.join(shown)}")


def extras(settings: Settings, uris: tuple[object, ...]) -> list[tuple[str, str, str]]:
    """(module, extra of the package, why) of all that this configuration and these sources need."""
    needed: list[tuple[str, str, str]] = []
    if settings.hub.backend == "hf_transfer":
        needed.append(("hf_transfer", "hf-transfer", "hub.backend is hf_transfer"))
    if settings.s3 or any(isinstance(uri, S3Uri) for uri in uris):
        needed.append(("boto3", "s3", "an S3 profile is configured" if settings.s3 else "an s3:// URI was named"))
    given = sorted(name for name, origin in settings.origins.items() if origin.rank is not Rank.DEFAULT)
    tables = next((name for name in given if name.startswith(("collect.", "tools."))), "")
    if tables:
        needed += [(module, "images", f"{tables} is set") for module in ("pyarrow", "PIL")]
    if tables.startswith("collect.") and settings.collect.resampler == "opencv":
        needed.append(("cv2", "images", "collect.resampler is opencv"))
    return needed


def judge_extra(module: str, extra: str, why: str) -> Finding:
    """An extra that is needed and missing."""
    remedy = f"pip install 'shoal[{extra}]'"
    return failed(f"not installed, and {why}", subject=module, remedy=remedy, exit_code=ExitCode.USAGE)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
