"""The command line's grammar: what sets up and keeps up a fleet."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any


def add_install_systemd(actions: Any, common: argparse.ArgumentParser, formatter: type[argparse.HelpFormatter]) -> None:
    """``shoal config install-systemd``."""
    parser = actions.add_parser(
        "install-systemd",
        parents=[common],
        help="write systemd units for a coordinator and agents, and say what to do next",
        description="Write the systemd units of a coordinator and of agents. Changed files are never replaced without --force.",
        formatter_class=formatter,
    )
    # Not dest="root": that is the setting agent.root of other commands.
    parser.add_argument(
        "--root", dest="target_root", metavar="DIR", help="write below DIR, such as an image (default /)"
    )
    parser.add_argument("--user", action="store_true", help="for your own service manager (systemctl --user)")
    parser.add_argument(
        "--agents", metavar="N", type=int, default=1, help="agents on this machine (default 1; 0: a coordinator alone)"
    )
    parser.add_argument(
        "--writable", metavar="DIR", action="append", default=[], help="a folder that agents write to (repeatable)"
    )
    parser.add_argument("--binary", metavar="PATH", help="the program that units start (default: this one)")
    parser.add_argument("--dry-run", action="store_true", help="print what would be written, and write nothing")
    parser.add_argument(
        "--force", action="store_true", help="replace files that were changed; the old ones stay as NAME.old"
    )


def add_rotate(actions: Any, common: argparse.ArgumentParser, formatter: type[argparse.HelpFormatter]) -> None:
    """``shoal token rotate``."""
    parser = actions.add_parser(
        "rotate",
        parents=[common],
        help="print a new credential in the place of one, which stays valid for a while",
        formatter_class=formatter,
    )
    parser.add_argument("token", metavar="ID")
    parser.add_argument("--grace", metavar="AGE", default="1h", help="how long the old one stays valid (default 1h)")
    parser.add_argument(
        "--expires", metavar="AGE", help="valid for so long (default: as long as the old one was made for)"
    )
    parser.add_argument("--state", metavar="DIR", help="state folder of a coordinator that is not running")
    parser.add_argument("--json", action="store_true")


def add_backup(command: Callable[..., argparse.ArgumentParser]) -> None:
    """``shoal backup``."""
    parser = command("backup", "Copy the coordinator's database into a file, whether the coordinator runs or not.")
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--state", metavar="DIR", help="state folder of a coordinator that is not running")
    parser.add_argument("--force", action="store_true", help="replace FILE")
    parser.add_argument("--json", action="store_true", help="print JSON")
