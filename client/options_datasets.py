"""The command line's grammar for datasets: ``shoal collect``."""

from __future__ import annotations

from typing import Any


def add_dataset_commands(command: Any) -> None:
    """Add the commands. Args: command makes a parser of a name and a help text."""
    parser = command(
        "collect", "Make a dataset of a URL table, politely. Run it again and it goes on where it stopped."
    )
    parser.add_argument(
        "tables",
        nargs="*",
        metavar="TABLE",
        help="CSV, TSV or Parquet files, globs or folders (default: collect.input)",
    )
    parser.add_argument("--to", metavar="DIR|s3://…", help="the dataset's folder (default: collect.output)")
    parser.add_argument(
        "--image-size", metavar="N", help="longest side in pixels; larger images are made smaller (224)"
    )
    parser.add_argument("--content", choices=("image", "any"), help="what the URLs lead to")
    parser.add_argument(
        "--image-encoding",
        choices=("jpeg", "webp", "png", "original", "raw-bgr"),
        help="how images are stored (jpeg)",
    )
    parser.add_argument(
        "--format", choices=("parquet", "webdataset", "files"), help="how the result is stored (parquet)"
    )
    parser.add_argument("--rate", metavar="R", help="requests per second to one host, of all agents together (3)")
    parser.add_argument("--robots", action="store_true", default=None, help="obey robots.txt")
    parser.add_argument(
        "--restart",
        choices=("partitioning", "profiling", "failed"),
        help="read the table anew; measure the hosts anew; try the URLs again that failed",
    )
    parser.add_argument(
        "--code",
        dest="codes",
        metavar="C",
        type=int,
        action="append",
        help="with --restart failed: only this error code",
    )
    parser.add_argument("--force", action="store_true", help="delete what was collected before, and begin anew")
    parser.add_argument(
        "--confirm", metavar="NAME", default="", help="the folder's name: with --force, instead of typing it"
    )
    parser.add_argument("--profile", metavar="NAME", default="", help="credentials of [s3.NAME] for --to s3://…")
    parser.add_argument("--priority", metavar="N", type=int, default=0, help="larger is sooner")
    parser.add_argument("--name", default="", help="a name to find the job by")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
