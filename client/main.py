"""The entry point of ``shoal``: parses, loads the settings, runs one command, turns errors into exit codes.

What a person reads goes to standard error, the answer itself to standard output. Commands are imported when they run: `shoal --help`
must not pay for gRPC.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..common.errors import ExitCode, Interrupted, ShoalError, UsageError
from ..common.version import VERSION

if TYPE_CHECKING:
    import argparse

    from ..common.settings import Settings

# Containers that are made and not freed before Python looks for cycles among them. Its own 700 suits programs that make little: with
# a few thousand requests a second, looking was up to a tenth of all the work, and hardly ever found anything.
GC_THRESHOLD = 10_000

Command = Callable[["argparse.Namespace", "Settings"], int]


def main(argv: Sequence[str] | None = None, *, given: Mapping[str, object] | None = None, config: str = "") -> int:
    """Run one command. Returns the exit code.

    Args: argv without the program's name, default the process's; given are settings, and config the configuration file, that
    count where the command line says nothing else.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments in (["--version"], ["-V"]):
        print(f"shoal {VERSION}")
        return 0
    gc.set_threshold(GC_THRESHOLD)
    from .options import build_parser

    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.version:
        print(f"shoal {VERSION}")
        return 0
    if options.command is None:
        parser.print_help(sys.stderr)
        return ExitCode.USAGE
    if config and not getattr(options, "config", None):
        options.config = config
    try:
        code = int(run_command(options, given or {}))
        sys.stdout.flush()  # here, where a reader that went away is no error
        return code
    except ShoalError as error:
        return _fail(error, options)
    except KeyboardInterrupt:
        return _fail(Interrupted("", cause="interrupted"), options)
    except BrokenPipeError:
        # The reader of our output went away (`shoal jobs | head`): nothing is wrong, and nothing more can be printed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK


def run_command(options: argparse.Namespace, given: Mapping[str, object]) -> int:
    """Load the settings and run the command that was parsed; given settings count where it says nothing. Raises ShoalError."""
    if options.command == "doctor":
        from .doctor.command import run as run_doctor

        return run_doctor(options, overrides(options))
    if options.command == "config":
        from .config_cmd import run as run_config

        return run_config(options, overrides(options))
    settings = load(options, given)
    configure_logs(options.command, settings)
    return _command(options.command)(options, settings)


def load(options: argparse.Namespace, given: Mapping[str, object] = MappingProxyType({})) -> Settings:
    """The settings for a command line; given ones count where it says nothing. Raises UsageError."""
    from ..common.settings import load_settings

    return load_settings(
        environ=os.environ,
        cwd=Path.cwd(),
        overrides={**given, **overrides(options)},
        config_file=Path(options.config) if getattr(options, "config", None) else None,
    )


def configure_logs(command: str, settings: Settings) -> None:
    """Daemons log what they do; commands that a person waits for only warn, unless a level was asked for."""
    from ..common import logs
    from ..common.settings_sources import Rank

    level = settings.log.level
    if command not in ("coordinator", "agent") and settings.origin_of("log.level").rank is Rank.DEFAULT:
        level = "warning"
    logs.configure(level, settings.log.format, sys.stderr)


def overrides(options: argparse.Namespace) -> dict[str, object]:
    """Settings that the command line gave, by name."""
    given: dict[str, object] = {}
    for text in getattr(options, "settings", ()):
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text}", cause="it is not KEY=VALUE", remedy="for example --set fetch.attempts=5")
        given[name.strip()] = value
    flags = {
        "log_level": "log.level",
        "log_format": "log.format",
        "coordinator": "coordinator.address",
        "listen": "coordinator.listen",
        "web": "web.listen",
        "root": "agent.root",
        "zone": "agent.zone",
        "peer_listen": "agent.peer_listen",
        "data": "agent.data",
        "image_size": "collect.image_size",
        "content": "collect.content",
        "image_encoding": "collect.image_encoding",
        "format": "collect.format",
        "robots": "collect.robots",
        "dataset": "tools.data",
        "tools_load": "tools.load",
        "tools_workers": "tools.workers",
        "threshold_size": "tools.threshold_size",
        "new_size": "tools.new_size",
        "perceptual": "tools.perceptual",
        "remove": "tools.remove",
    }
    for flag, name in flags.items():
        if getattr(options, flag, None) is not None:
            given[name] = getattr(options, flag)
    if getattr(options, "insecure", False):
        given["security.insecure"] = True
    if options.command == "nas" and options.action == "copy":
        given.update({"nas.wait": options.wait} if options.wait else {})
        given.update({"nas.recheck": True} if options.recheck else {})
    if getattr(options, "nas", None):
        given["nas.path"], given["nas.enabled"] = options.nas, True
    if getattr(options, "no_nas", False):
        given["nas.enabled"] = False
    if options.command == "agent" and options.name:
        given["agent.name"] = options.name
    if options.command == "collect" and options.rate is not None:
        given["collect.default_rate_limit"] = options.rate
    if getattr(options, "state", None):
        given["coordinator.state"] = options.state
    return given


def _command(name: str) -> Command:
    if name in ("get", "submit"):
        from . import transfer

        return transfer.get if name == "get" else transfer.submit
    if name == "collect":
        from . import collecting

        return collecting.collect
    if name in ("coordinator", "agent"):
        from . import daemons

        return daemons.coordinator if name == "coordinator" else daemons.agent
    if name == "health":
        from . import health

        return health.health
    if name == "up":
        from . import up

        return up.up
    if name in ("verify", "clean"):
        from . import folders

        return folders.verify if name == "verify" else folders.clean
    if name == "nas":
        from . import nas_cmd

        return nas_cmd.nas
    if name == "models":
        from . import models_cmd

        return models_cmd.models
    if name == "web":
        from . import web_cmd

        return web_cmd.web
    if name == "tools":
        from . import tools_cmd

        return tools_cmd.tools
    if name == "launch":
        from . import launch

        return launch.launch
    if name in ("token", "backup"):
        from . import credentials

        return credentials.token if name == "token" else credentials.backup
    from . import admin

    commands: dict[str, Any] = admin.COMMANDS
    return commands[name]


def _fail(error: ShoalError, options: argparse.Namespace) -> int:
    if getattr(options, "json", False):
        import json

        document = {"error": {"code": error.code, "thing": error.thing, "cause": error.cause, "remedy": error.remedy}}
        print(json.dumps(document))
    print(f"shoal: {error}", file=sys.stderr)
    return int(error.exit_code)


if __name__ == "__main__":
    sys.exit(main())
