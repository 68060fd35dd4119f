"""Pictures made smaller, by what the job names: nothing here depends on what else an agent has installed.

======== ==============================================================================================================
pillow   Pillow's HAMMING filter; what is not a JPEG, and more than twice too large, is averaged over whole pixels first
opencv   averaged over whole pixels by Pillow (`Image.reduce`, in integers) until it is at most twice too large in either
         direction; then OpenCV's INTER_LINEAR_EXACT: bilinear, "bit exact" by its documentation, on every processor
======== ==============================================================================================================

Measured in benchmarks/results/images.md; why both: docs/decisions/0005-images.md. NumPy and OpenCV are imported when they are wanted.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from ...common.collect_records import Resampler
from ...common.errors import MissingExtra

if TYPE_CHECKING:
    from PIL.Image import Image

OPENCV_REMEDY: Final = "pip install 'shoal[images]', or set collect.resampler to pillow"
_GAP: Final = (
    2.0  # what is more than so many times too large is first averaged over whole pixels: cheap, and hardly to be seen
)
_NO_MEMORY: Final = ("(-4:", "bad_alloc")
"""In the text of a cv2.error: cv::Error::StsNoMem, or the C++ library's own. Its ``code`` may be that of an earlier error."""


def load_opencv() -> None:
    """Import OpenCV for one thread. Raises whatever a broken installation raises, ImportError and more."""
    import cv2

    cv2.setNumThreads(1)  # there is a process for each core already
    cv2.ocl.setUseOpenCL(False)  # a GPU's bits are its own


def opencv_missing(cause: str) -> MissingExtra:
    """The error of a job that wants OpenCV where there is none."""
    return MissingExtra("images", cause=cause, remedy=OPENCV_REMEDY)


def resampled(
    picture: Image, box: tuple[int, int], resampler: Resampler, extent: tuple[float, float] | None = None
) -> Image:
    """An RGB picture with the size ``box`` (width, height), which is nowhere larger than its own. Raises MemoryError, cv2.error.

    extent: of one that was decoded at a reduced scale, the part of it that the original covers (width, height); its last column and row
    may stand for less than the others do. Pillow is not told, so that its bits stay those of earlier jobs.
    """
    if resampler is Resampler.OPENCV:
        return _bilinear(*_averaged(picture, box, extent or picture.size), box)
    from PIL.Image import Resampling

    return picture.resize(box, Resampling.HAMMING, reducing_gap=_GAP if extent is None else None)


def _averaged(picture: Image, box: tuple[int, int], extent: tuple[float, float]) -> tuple[Image, tuple[float, float]]:
    """At most twice as large as ``box`` in either direction, and its extent.

    No smaller than need be: at twice, bilinear is the mean over areas; just above once, it blurs what lies between two pixels.
    """
    across, down = (math.ceil(old / (2 * new)) for old, new in zip(extent, box))
    if across == down == 1:
        return picture, extent
    return picture.reduce((across, down)), (extent[0] / across, extent[1] / down)


def _bilinear(picture: Image, extent: tuple[float, float], box: tuple[int, int]) -> Image:
    if picture.size == box:
        return picture
    import cv2
    import numpy

    # The scale is that of the extent, not of the size: what stands beyond the extent is cut off.
    scale = (box[0] / extent[0], box[1] / extent[1])
    width, height = (round(old * by) for old, by in zip(picture.size, scale))
    try:
        made = cv2.resize(
            numpy.asarray(picture),
            None,
            dst=numpy.empty((height, width, 3), numpy.uint8),  # so that a lack of memory is the same of every release
            fx=scale[0],
            fy=scale[1],
            interpolation=cv2.INTER_LINEAR_EXACT,
        )
    except cv2.error as error:
        if any(sign in str(error) for sign in _NO_MEMORY):
            raise MemoryError from None
        raise
    from PIL.Image import fromarray

    return fromarray(made[: box[1], : box[0]])
