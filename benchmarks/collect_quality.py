"""How near pictures made smaller are to the best that can be had: `PYTHON collect_quality.py FOLDER REPORT_FILE`.

FOLDER/original holds pictures, and every other folder in it what one tool made of them, under the same names. The reference is the
exact mean over the area of every new pixel, computed in floating point from the decoded original, neither rounded nor encoded. So
what is told includes the loss of the tool's own encoding.

It runs in the rival's Python, which has numpy and OpenCV: nothing but that interpreter's packages may be imported here.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

ORIGINAL = "original"
PEAK = 255.0


def area_weights(old: int, new: int) -> Any:
    """A matrix, new x old: how much each old pixel counts in each new one, by the share of its area that lies in it."""
    import numpy as np

    edges = np.arange(new + 1) * (old / new)
    starts = np.arange(old)
    covered = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    return np.clip(covered, 0, None) * (new / old)


def area_resized(picture: Any, height: int, width: int) -> Any:
    """A picture (rows x columns x channels) of another size, in floating point."""
    import numpy as np

    rows, columns = area_weights(picture.shape[0], height), area_weights(picture.shape[1], width)
    channels = [rows @ picture[:, :, channel].astype(np.float64) @ columns.T for channel in range(picture.shape[2])]
    return np.stack(channels, axis=-1)


def compare(made: Any, reference: Any) -> tuple[float, float]:
    """Mean absolute difference and mean squared difference, in steps of 255, over all pixels and channels."""
    import numpy as np

    difference = made.astype(np.float64) - reference
    return float(np.abs(difference).mean()), float((difference**2).mean())


def psnr(squared: float) -> float:
    """Peak signal over noise, in dB."""
    return math.inf if squared == 0 else 10 * math.log10(PEAK**2 / squared)


def main() -> int:
    import cv2

    folder, report = Path(sys.argv[1]), Path(sys.argv[2])
    tools = sorted(each.name for each in folder.iterdir() if each.is_dir() and each.name != ORIGINAL)
    differences: dict[str, list[tuple[float, float]]] = {tool: [] for tool in tools}
    for path in sorted((folder / ORIGINAL).iterdir()):
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        references: dict[tuple[int, int], Any] = {}
        for tool in tools:
            made = cv2.imread(str(folder / tool / path.name), cv2.IMREAD_COLOR)
            size = made.shape[:2]
            if size not in references:
                references[size] = area_resized(picture, *size)
            differences[tool].append(compare(made, references[size]))
    figures = {
        tool: {
            "pictures": len(pairs),
            "mean_difference": sum(mean for mean, _ in pairs) / len(pairs),
            "psnr_db": sum(psnr(squared) for _, squared in pairs) / len(pairs),
            "psnr_worst_db": min(psnr(squared) for _, squared in pairs),
            "mean_bytes": sum(path.stat().st_size for path in (folder / tool).iterdir()) / len(pairs),
        }
        for tool, pairs in differences.items()
    }
    report.write_text(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
