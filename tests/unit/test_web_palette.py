"""Colours of the page: contrast as WCAG 2.2 demands it (4.5:1 for text, 3:1 for what else must be seen), light and dark."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

STATIC = Path(__file__).resolve().parents[2] / "coordinator" / "web" / "static"
CSS = (STATIC / "base.css").read_text(encoding="utf-8")
TEXT_MIN, SHAPE_MIN = 4.5, 3.0

TEXT = [
    *[(text, ground) for text in ("text", "muted") for ground in ("bg", "surface", "sunken", "accent-soft")],
    *[("accent", ground) for ground in ("bg", "surface", "accent-soft")],
    *[("text", f"{kind}-soft") for kind in ("ok", "warn", "bad")],
    *[(kind, f"{kind}-soft") for kind in ("ok", "warn", "bad")],
    *[("on-accent", ground) for ground in ("accent", "accent-hover")],
    ("bad", "surface"),
    ("surface", "bad"),  # buttons that destroy
    ("bg", "text"),  # messages that pass
]
SHAPES = [
    *[("focus", ground) for ground in ("bg", "surface", "sunken")],
    *[("control", ground) for ground in ("bg", "surface")],
    *[(plot, "surface") for plot in ("plot", "plot-2")],
    ("plot", "sunken"),
]


def palette(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", block))


LIGHT_BLOCK, _, DARK_BLOCK = CSS.partition("@media (prefers-color-scheme: dark)")
LIGHT = palette(LIGHT_BLOCK)
PALETTES = {"light": LIGHT, "dark": palette(DARK_BLOCK)}


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_computed_as_wcag_has_it() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", PALETTES)
def test_text_can_be_read(scheme: str) -> None:
    colours = PALETTES[scheme]
    weak = {pair: contrast(colours[pair[0]], colours[pair[1]]) for pair in TEXT}
    assert {pair: ratio for pair, ratio in weak.items() if ratio < TEXT_MIN} == {}


@pytest.mark.parametrize("scheme", PALETTES)
def test_shapes_can_be_seen(scheme: str) -> None:
    colours = PALETTES[scheme]
    weak = {pair: contrast(colours[pair[0]], colours[pair[1]]) for pair in SHAPES}
    assert {pair: ratio for pair, ratio in weak.items() if ratio < SHAPE_MIN} == {}


def test_both_schemes_have_the_same_colours_and_no_colour_is_written_elsewhere() -> None:
    assert PALETTES["dark"].keys() == LIGHT.keys()
    for path in STATIC.glob("*.css"):
        text = path.read_text(encoding="utf-8")
        used = set(re.findall(r"var\(--([a-z0-9-]+)\)", text))
        defined = set(re.findall(r"--([a-z0-9-]+):", CSS))
        assert used <= defined, f"{path.name} uses {used - defined}"
        if path.name != "base.css":
            assert not re.findall(r"#[0-9a-fA-F]{3,8}\b(?![^{]*\{)", re.sub(r"#[a-z][\w-]*", "", text))
