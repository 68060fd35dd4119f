"""``shoal config install-systemd``: writes the units of ``systemd/`` where systemd looks for them, and says what to do next.

A file that somebody changed since it was written is never replaced without ``--force``: each carries the digest of what was written,
so that a new version of Shoal can replace its own files and nobody else's.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal, NamedTuple

from ..common.errors import NotWritable, UsageError

PACKAGED = "/usr/bin/shoal"
"""What the units in ``systemd/`` start; replaced by the program's real path."""
AGENTS_MAX = 1000
RELOAD_VERSION = 254
"""The first systemd with notify-reload (253) and with RestartSteps= (254); older ones warn of keys that they do not know."""

COORDINATOR = ("shoal-coordinator.service", "shoal-coordinator.socket")
AGENTS = ("shoal-agent.service", "shoal-agent@.service")

_MARK = "# Written by shoal config install-systemd. sha256 of the lines above: "
_NEWER = """\
# systemd 254 and later know these: reload waits until the new settings are in force, and pauses between restarts grow.
[Service]
Type=notify-reload
ExecReload=
RestartSteps=6
RestartMaxDelaySec=5min
"""
_HIDDEN = {"ProtectHome": ("/home", "/root", "/run/user"), "PrivateTmp": ("/tmp", "/var/tmp")}
"""What a unit does not see, by the option that hides it (systemd.exec(5))."""

# A user's own service manager has no rights to change users or to hide parts of the file system, and has other targets.
_SYSTEM_ONLY = re.compile(
    r"(User|Group|LoadCredential|CapabilityBoundingSet|AmbientCapabilities|ProtectSystem|ProtectHome|PrivateTmp|PrivateDevices"
    r"|PrivateUsers|DevicePolicy|ProtectClock|ProtectControlGroups|ProtectHostname|ProtectKernel\w+|ProtectProc|ProcSubset"
    r"|RemoveIPC|KeyringMode|Wants|After)="
)
_SYSTEM_REMARKS = re.compile(
    r"^# (?:Secrets that lie|The agent may write|The Hub token lies)[^\n]*\n(?:#[^\n]*\n)*", re.MULTILINE
)

Fate = Literal["new", "same", "update", "changed", "kept"]


class File(NamedTuple):
    """A file to write. ``ours``: it follows the program's version; the others are for people to edit, and are kept."""

    path: Path  # below the root
    text: str
    ours: bool = True

    @property
    def content(self) -> str:
        """The text with its digest, where it is ours."""
        return f"{self.text}{_MARK}{_digest(self.text)}\n" if self.ours else self.text


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is installed. root: of the file system that is written to; user: for the user's own service manager."""

    binary: Path
    root: Path = Path("/")
    user: bool = False
    agents: int = 1
    writable: tuple[Path, ...] = ()
    systemd_version: int = 0

    def files(self, environ: Mapping[str, str]) -> list[File]:
        """All files, in the order in which they are written. Raises UsageError for a path that a unit cannot name."""
        config = Path("/etc")
        if self.user:
            config = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or Path.home()) / ".config")
        units = config / "systemd" / ("user" if self.user else "system")
        names = (*COORDINATOR, *(AGENTS if self.agents else ()))
        made = [File(units / name, self._unit(name)) for name in names]
        if self.systemd_version >= RELOAD_VERSION:
            made += [File(units / f"{name}.d/10-newer-systemd.conf", _NEWER) for name in names if "service" in name]
        if self.writable and self.agents:
            text = _writable(self.writable, user=self.user)
            made += [File(units / f"{name}.d/50-writable.conf", text) for name in AGENTS]
        if not self.user:
            made += [
                File(config / "sysusers.d/shoal.conf", _packaged("shoal.sysusers")),
                File(config / "tmpfiles.d/shoal.conf", _packaged("shoal.tmpfiles")),
            ]
        for name in ("coordinator.env", *(("agent.env",) if self.agents else ())):
            text = _packaged(name)
            made.append(File(config / "shoal" / name, self._for_user(text) if self.user else text, ours=False))
        return made

    def commands(self) -> list[str]:
        """What a person types next."""
        manage = "systemctl --user" if self.user else "systemctl"
        agents = ["shoal-agent"] if self.agents == 1 else [f"shoal-agent@{n}" for n in range(1, self.agents + 1)]
        told = [] if self.user else ["systemd-sysusers", "systemd-tmpfiles --create shoal.conf"]
        told += [f"{manage} daemon-reload", f"{manage} enable --now shoal-coordinator.service"]
        if agents and self.agents:
            told += [f"{manage} enable --now {' '.join(agents)}"]
        return told

    def warnings(self) -> list[str]:
        """What will not work as it is."""
        found: list[str] = []
        if not self.user:
            for option, folders in _HIDDEN.items():
                if any(self.binary.is_relative_to(folder) for folder in folders):
                    found.append(
                        f"{self.binary} cannot be started by the units, which do not see that folder ({option}): install "
                        "Shoal elsewhere, such as /opt/shoal, and name it with --binary"
                    )
            told = "the user shoal must be allowed to write to"
            found += [f"{told} {folder}: chown shoal:shoal {folder}" for folder in self.writable]
        return found

    def _unit(self, name: str) -> str:
        text = _packaged(name).replace(f"={PACKAGED} ", f"={_quoted(self.binary)} ")
        return self._for_user(text) if self.user else text

    @staticmethod
    def _for_user(text: str) -> str:
        lines = [line for line in _SYSTEM_REMARKS.sub("", text).splitlines() if not _SYSTEM_ONLY.match(line)]
        lines = [
            line.replace("_FILE=shoal.", "_FILE=~/.config/shoal/").replace("/etc/credstore/shoal.", "~/.config/shoal/")
            for line in lines
        ]
        places = {True: "~/.config/shoal", False: "%E/shoal"}  # in a remark, and where systemd reads it
        lines = [line.replace("/etc/shoal", places[line.startswith("#")]) for line in lines]
        return "\n".join(lines).replace("multi-user.target", "default.target") + "\n"


class Step(NamedTuple):
    """One file and what becomes of it."""

    file: File
    target: Path
    fate: Fate


def steps(plan: Plan, environ: Mapping[str, str]) -> list[Step]:
    """What would be done, without doing it. Raises NotWritable for a file that cannot be read."""
    return [Step(file, target, _fate(file, target)) for file, target in _targets(plan, environ)]


def install(plan: Plan, environ: Mapping[str, str], *, force: bool = False) -> list[Step]:
    """Write the files that are new or ours; with force also those that were changed, whose old text is kept as ``NAME.old``.

    Nothing is written if one may not be. Raises UsageError for a changed file, NotWritable.
    """
    found = steps(plan, environ)
    changed = [str(step.target) for step in found if step.fate == "changed"]
    if changed and not force:
        raise UsageError(
            changed[0] if len(changed) == 1 else f"{len(changed)} files ({', '.join(changed)})",
            cause="somebody changed it since it was written, or wrote it" if len(changed) == 1 else "they were changed",
            remedy="put changes into a drop-in (systemctl edit UNIT), then say --force: the old text is kept beside it",
        )
    for step in found:
        if step.fate in ("new", "update") or (force and step.fate in ("changed", "kept")):
            _write(step.target, step.file.content, keep_old=step.fate in ("changed", "kept"))
    return found


def find_binary(named: str | None, argv0: str, environ: Mapping[str, str]) -> Path:
    """The program that units start: the one that was named, else the one that runs now. Raises UsageError."""
    if named:
        path = Path(named)
        if not path.is_absolute():
            raise UsageError(f"--binary {named}", cause="it is not an absolute path", remedy=f"--binary {PACKAGED}")
        return path
    running = Path(os.path.abspath(argv0))  # noqa: PTH100  (symlinks are to stay: /usr/bin/shoal may be one)
    if running.name == "shoal" and os.access(running, os.X_OK):
        return running
    found = shutil.which("shoal", path=environ.get("PATH"))
    if found is None:
        raise UsageError("shoal", cause="its program is not found in PATH", remedy=f"name it: --binary {PACKAGED}")
    return Path(found)


def systemd_version() -> int:
    """Of this machine; 0 where there is none."""
    try:
        done = subprocess.run(
            ["systemctl", "--version"],
            capture_output=True,
            text=True,
            timeout=10,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    match = re.match(r"systemd (\d+)", done.stdout)
    return int(match[1]) if match else 0


def run(
    *,
    root: str | None,
    user: bool,
    agents: int,
    dry_run: bool,
    binary: str | None,
    writable: Sequence[str],
    force: bool,
) -> str:
    """The command. Returns what it has to say. Raises UsageError, NotWritable."""
    if not 0 <= agents <= AGENTS_MAX:
        raise UsageError(f"--agents {agents}", cause=f"it is not a number from 0 to {AGENTS_MAX}")
    for folder in writable:
        if not Path(folder).is_absolute():
            raise UsageError(f"--writable {folder}", cause="it is not an absolute path")
    plan = Plan(
        binary=find_binary(binary, sys.argv[0], os.environ),
        root=Path(root or "/").absolute(),
        user=user,
        agents=agents,
        writable=tuple(map(Path, writable)),
        systemd_version=systemd_version() if root is None else 0,
    )
    found = steps(plan, os.environ) if dry_run else install(plan, os.environ, force=force)
    words = {"new": "wrote", "same": "is as it should be", "update": "updated", "changed": "replaced", "kept": "kept"}
    would = {
        "new": "would write",
        "update": "would update",
        "changed": "was changed, needs --force",
        "kept": "would keep",
    }
    lines = [f"{(would if dry_run else words).get(step.fate, words[step.fate])}: {step.target}" for step in found]
    if force and not dry_run:
        lines = [line.replace("kept: ", "replaced: ") for line in lines]
    if dry_run:
        lines += [
            f"\n# ---- {step.target}\n{step.file.content}"
            for step in found
            if step.fate in ("new", "update", "changed")
        ]
    lines += [f"note: {warning}" for warning in plan.warnings()]
    return "\n".join([*lines, "", "next:", *(f"  {command}" for command in plan.commands())])


def _targets(plan: Plan, environ: Mapping[str, str]) -> list[tuple[File, Path]]:
    return [(file, plan.root / str(file.path).lstrip("/")) for file in plan.files(environ)]


def _packaged(name: str) -> str:
    return files("shoal.systemd").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _fate(file: File, target: Path) -> Fate:
    try:
        there = target.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return "new"
    except OSError as error:
        raise NotWritable(f"file {target}", cause=error.strerror or str(error), remedy="see its permissions") from None
    if there == file.content:
        return "same"
    if not file.ours:
        return "kept"
    text, mark, digest = there.rpartition(_MARK)
    return "update" if mark and digest == f"{_digest(text)}\n" else "changed"


def _write(target: Path, text: str, *, keep_old: bool) -> None:
    temporary = target.with_name(f".{target.name}.new")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if keep_old:
            target.replace(target.with_name(f"{target.name}.old"))
        temporary.write_text(text, encoding="utf-8")
        temporary.chmod(0o644)
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        cause = error.strerror or str(error)
        raise NotWritable(
            f"file {target}", cause=cause, remedy="run it as root, or with --user or --root DIR"
        ) from None


def _quoted(path: Path) -> str:
    """A path as an argument of a unit file (systemd.service(5), "Command lines"). Raises UsageError."""
    text = str(path)
    if not text.isprintable() or set(text) & set("\"'\\$"):
        cause = "a unit cannot name a path with quotes, backslashes or dollar signs"
        raise UsageError(f"path {text!r}", cause=cause, remedy="use another folder")
    text = text.replace("%", "%%")
    return f'"{text}"' if " " in text else text


def _writable(folders: Sequence[Path], *, user: bool) -> str:
    named = " ".join(map(_quoted, folders))
    lines = [
        "# Where the agents may write, and what must be mounted before.",
        "[Unit]",
        f"RequiresMountsFor={named}",
        "",
    ]
    if user:
        return "\n".join(lines)
    lines += ["[Service]", f"ReadWritePaths={named}"]
    for option, hidden in _HIDDEN.items():
        if any(folder.is_relative_to(place) for folder in folders for place in hidden):
            lines.append(f"{option}=no")
    return "\n".join(lines) + "\n"
