"""The settings of URL tables and of the tools that work on what was collected."""

# ruff: noqa: RUF009  # setting() makes a dataclass field: nothing is shared between instances

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .settings_fields import setting
from .settings_kinds import (
    BOOLEAN,
    DURATION,
    OPTIONAL_PATH,
    PATH,
    SIZE,
    TEXT,
    choice,
    integer,
    list_of,
    number,
    text_map,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectSettings:
    input: tuple[str, ...] = setting(
        list_of(TEXT), [], "URL tables: CSV, TSV or Parquet files, globs, folders. The command line replaces them."
    )
    output: str = setting(TEXT, "", "Folder, or s3:// prefix, of the dataset. The command line replaces it.")
    columns: Mapping[str, str] = setting(
        text_map(),
        {},
        'What the table calls the columns: { identifier = "image_url", uuid = "id" }. What is not named is called as it is.',
    )
    carry: tuple[str, ...] = setting(list_of(TEXT), [], "Further columns of the table that are kept in successes.")
    batch_size: int = setting(integer(1, 10_000_000), 10_000, "Rows of one server that one agent works on at a time.")
    content: Literal["image", "any"] = setting(
        choice("image", "any"),
        "image",
        "What the URLs lead to: images, which are decoded, or any files, kept as bytes.",
    )
    image_size: int = setting(
        integer(0, 65_535), 224, "Longest side in pixels; larger images are made smaller. 0: as they are."
    )
    image_encoding: Literal["jpeg", "webp", "png", "original", "raw-bgr"] = setting(
        choice("jpeg", "webp", "png", "original", "raw-bgr"),
        "jpeg",
        "How images are stored. original: the bytes as served, not resized; raw-bgr: height x width x 3 bytes.",
    )
    image_quality: int = setting(integer(1, 100), 95, "Quality of stored JPEG and WebP images.")
    resampler: Literal["opencv", "pillow"] = setting(
        choice("opencv", "pillow"),
        "opencv",
        "What makes images smaller. OpenCV takes less CPU, Pillow one library less; their bytes and digests differ.",
    )
    format: Literal["parquet", "webdataset", "files"] = setting(
        choice("parquet", "webdataset", "files"),
        "parquet",
        "How the result is stored. webdataset and files are written beside a Parquet file without the bytes.",
    )
    row_group_size: int = setting(SIZE, "32MiB", "Bytes of one row group of the stored Parquet files.")
    image_workers: int = setting(
        integer(0, 1024), 0, "Processes that decode images on one agent. 0: one for each core."
    )
    default_rate_limit: float = setting(
        number(0, 1e6),
        3,
        "Requests per second of the whole fleet to one host that has no rate of its own. 0: no limit.",
    )
    rate_multiplier: float = setting(
        number(0, 1), 0.5, "How far the rate adapts itself: between rate * (1 - this) and rate * (1 + this)."
    )
    connections_per_host: int = setting(
        integer(1, 10_000),
        16,
        "Requests of the whole fleet to one host at once, unless the host has a number of its own.",
    )
    request_timeout: float = setting(DURATION, "30s", "How long one request may take in all.")
    idle_timeout: float = setting(DURATION, "10s", "How long a server may be silent.")
    attempts: int = setting(
        integer(1, 100),
        5,
        "How often a URL is tried after network errors, timeouts, 429 and 5xx; other answers are final.",
    )
    redirects_max: int = setting(integer(0, 50), 10, "Redirects that are followed for one URL.")
    max_body: int = setting(SIZE, "64MiB", "A larger body is an error, and no more of it is read.")
    max_pixels: int = setting(
        integer(1, 10_000_000_000), 179_000_000, "An image with more pixels is an error, and is not decoded."
    )
    decode_timeout: float = setting(DURATION, "30s", "How long decoding one image may take.")
    decode_memory: int = setting(SIZE, "2GiB", "Memory of one process that decodes images.")
    backoff_initial: float = setting(
        DURATION, "60s", "How long a host is left alone after 429 or 503 without Retry-After; doubled each time."
    )
    backoff_cap: float = setting(DURATION, "24h", "The longest that a host is left alone, whatever it asks for.")
    host_patience: float = setting(
        DURATION,
        "30m",
        "When only hosts that refuse or ask to wait are left: how long until their remaining rows become errors.",
    )
    robots: bool = setting(BOOLEAN, False, "Obey robots.txt: Disallow, and Crawl-delay as the lowest delay.")
    respect_ai_opt_out: bool = setting(
        BOOLEAN, False, "Drop what says X-Robots-Tag: noai, noimageai or noindex. Otherwise it is only recorded."
    )
    allow_private_addresses: bool = setting(
        BOOLEAN, False, "Let URLs of tables lead to loopback, private and link-local addresses."
    )
    user_agent: str = setting(
        TEXT,
        "",
        "Who asks, in every request. Name yourself and how to reach you. Empty: Shoal, its version and its contact.",
    )
    contact: str = setting(TEXT, "", "Web page or mail address that goes into the User-Agent.")


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolsSettings:
    data: str = setting(TEXT, "", "Folder of the collected dataset. The command line replaces it.")
    workers: int = setting(integer(0, 1024), 0, "Processes that tools run in on one agent. 0: one for each core.")
    load: Path | None = setting(OPTIONAL_PATH, "", "Python file with tools of your own.")
    load_paths: tuple[Path, ...] = setting(
        list_of(PATH), [], "Folders that an agent loads tools from when a coordinator asks it to. Empty: none."
    )
    threshold_size: int = setting(
        integer(0, 1_000_000), 224, "size_based: images whose shorter side is below this leave."
    )
    new_size: int = setting(integer(1, 65_535), 224, "resize: the new longest side in pixels.")
    perceptual: bool = setting(BOOLEAN, False, "duplication_based: list images that look alike, too; they stay.")
    remove: bool = setting(BOOLEAN, False, "image_verification: corrupted rows leave. Otherwise they are only listed.")
    unit_size: int = setting(SIZE, "256MiB", "Bytes of partitions that one process works on at a time.")
    options: Mapping[str, str] = setting(
        text_map(), {}, "Options of tools of your own, by name; tools that do not know them pass them by."
    )
