"""The table of settings as text: the commented sample, and ``docs/configuration.md``.

``python -m shoal.common.settings_docs docs/configuration.md`` writes the page; a unit test fails when it is not fresh.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from .settings_fields import Key, Section
from .settings_sources import variable_name
from .settings_table import SECTIONS

_SAMPLE_HEAD = """\
# Configuration of Shoal. Every key is here with its default; remove the "# " before a line to set it.
# Looked for in: --config FILE, ./shoal.toml, $XDG_CONFIG_HOME/shoal/config.toml, /etc/shoal/shoal.toml: the first one found.
# The command line and the environment (SHOAL_SECTION_KEY) win over this file. See shoal config show.
"""

_PAGE_HEAD = """\
# Configuration

<!-- Made by python -m shoal.common.settings_docs from common/settings_table.py: edit there, not here. -->

A value comes from the first of these that gives it:

1. the command line;
2. the environment: `SHOAL_SECTION_KEY`, then the variables of other tools that are named below;
3. the configuration file: `--config FILE`, else the first found of `./shoal.toml`,
   `$XDG_CONFIG_HOME/shoal/config.toml` (`~/.config/shoal/config.toml`) and `/etc/shoal/shoal.toml`;
4. the default.

`shoal config init` writes a commented sample, `shoal config show` prints every value and where it came from,
`shoal config check FILE` lists every unknown key and bad value, `shoal config path` prints where the file is looked for.

Sizes take `KiB`, `MiB`, `GiB` (1024) and `KB`, `MB`, `GB` (1000); durations `ms`, `s`, `m`, `h`, `d`, also together
(`1h30m`); a bare number is bytes or seconds. Paths take `~` and `$VARIABLE`; a relative path in the file starts at the
file's folder. In the environment, lists are written with commas. A variable that is set to nothing counts as not set.

A secret is best given by reference: `token_env` names an environment variable, `token_file` a file; a bare file name is
looked up first in `$CREDENTIALS_DIRECTORY`, where systemd puts the files of `LoadCredential=`. Files are read again
whenever the secret is needed. Without a Hub token in any of these places, the login that the Hub's own command line
stored (`$HF_TOKEN_PATH`, else `$HF_HOME/token`) is used.

Proxies are taken from `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`.
"""


def toml_value(value: object) -> str:
    """A value as TOML writes it. Takes bool, int, float, str, lists and tables of them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # TOML's basic strings have JSON's escapes, but JSON leaves U+007F as it is.
        import json

        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(toml_value(item) for item in cast('Sequence[object]', value))}]"
    if isinstance(value, Mapping):
        pairs = cast("Mapping[str, object]", value).items()
        return f"{{{', '.join(f' {toml_value(name)} = {toml_value(item)}' for name, item in pairs)}{' ' if pairs else ''}}}"
    return repr(value)


def sample() -> str:
    """The commented sample: with the comment signs before its keys removed it is a valid file of defaults."""
    parts = [_SAMPLE_HEAD]
    for section in SECTIONS:
        lines = [f"# {section.help}", f'# [{section.name}."NAME"]' if section.named else f"[{section.name}]"]
        for key in section.table():
            lines += [f"## {key.help} ({key.kind.label})", f"# {key.name} = {toml_value(key.default)}"]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def page() -> str:
    """``docs/configuration.md``."""
    return "\n".join([_PAGE_HEAD, *(_section(section) for section in SECTIONS)])


def _section(section: Section) -> str:
    lines = [
        f'## `[{section.name}."NAME"]`' if section.named else f"## `[{section.name}]`",
        "",
        f"{section.help}{' Not settable by the environment.' if section.named else ''}",
        "",
        "| key | type | default | meaning | environment |"
        if not section.named
        else "| key | type | default | meaning |",
        "| --- | --- | --- | --- | --- |" if not section.named else "| --- | --- | --- | --- |",
    ]
    for key in section.table():
        cells = [f"`{key.name}`", _cell(key.kind.label), f"`{toml_value(key.default)}`", _cell(key.help)]
        lines.append(f"| {' | '.join(cells if section.named else [*cells, _variables(section, key)])} |")
    return "\n".join([*lines, ""])


def _variables(section: Section, key: Key) -> str:
    return ", ".join(f"`{name}`" for name in (variable_name(section, key), *(alias.name for alias in key.aliases)))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
