"""The command line's grammar: ``shoal models``."""

from __future__ import annotations

import argparse
from typing import Any

SORTS = ("name", "owner", "family", "quantization", "size", "age")


def add_model_commands(command: Any, common: argparse.ArgumentParser) -> None:
    """Add ``models`` with its actions. Args: command makes a command's parser; common are the global options."""
    parser = command(
        "models",
        "The library: models, datasets and files on this machine's disks, in the Hub cache and in plain folders.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, help: str) -> argparse.ArgumentParser:
        made = actions.add_parser(
            name, parents=[common], help=help, description=help, formatter_class=parser.formatter_class
        )
        made.add_argument("--json", action="store_true", help="print JSON")
        return made

    name_help = "ORG/NAME, its folder, or its id as `list --json` and errors tell it"
    made = action("list", "List what is on disk.")
    made.add_argument(
        "--sort",
        metavar="ORDER",
        default="name",
        help=f"{', '.join(SORTS)}; -ORDER turns it round (--sort=-size)",
    )
    made.add_argument("--search", metavar="WORDS", default="", help="only what has all of these words")
    made.add_argument("--owner", metavar="ORG", default="", help="only of this owner")
    made.add_argument("--family", metavar="F", default="", help="only of this family, such as Llama-3.1")
    made.add_argument("--quant", metavar="Q", default="", help="only with this quantization, such as Q4_K_M")
    made.add_argument("--kind", choices=("model", "dataset", "space"), default="", help="only of this kind")
    made.add_argument(
        "--group", choices=("owner", "family", "quantization", "kind"), default="", help="count by this instead"
    )
    made.add_argument("--rescan", action="store_true", help="read everything anew, not only what changed")
    made = action("show", "One model: revisions, quantizations, files.")
    made.add_argument("model", metavar="NAME", help=name_help)
    made.add_argument("--files", action="store_true", help="list every file")
    made = action("outdated", "List what the Hub has a newer revision of.")
    made.add_argument("models", nargs="*", metavar="NAME", help="only these (default: everything)")
    made = action("update", "Fetch the newer revision, in the same place, the same selection; only changes cost bytes.")
    made.add_argument("models", nargs="*", metavar="NAME", help=name_help)
    made.add_argument("--all", action="store_true", help="everything that is outdated")
    made.add_argument("--prune", action="store_true", help="delete afterwards what only the old revision had")
    made.add_argument("--dry-run", action="store_true", help="say what would be fetched, and fetch nothing")
    made = action("delete", "Delete a model, or a revision of it; what nothing names as fetched stays.")
    made.add_argument("model", metavar="NAME", help=name_help)
    made.add_argument(
        "--revision", metavar="REV", default="", help="only this revision: a commit, or a ref such as main"
    )
    made.add_argument("--yes", action="store_true", help="do not ask")
    made.add_argument(
        "--dry-run", action="store_true", help="say what would go and how much that frees, and do nothing"
    )
