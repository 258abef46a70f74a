"""Whether lines of letters stand at the upper or lower edge of an image, by its pixels; runs in the guard's child.

How well it finds, and how often it is wrong: CONTRIBUTING.md, decision 31. Letters that are faint, in the middle of an image,
fewer than five in a line, more than 40 pixels high or among thousands of glyphs are not found.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

EDGE: Final = 0.2  # of the rows, above and below
STROKE: Final = 7  # pixels; strokes of letters are thinner
CONTRAST: Final = 0.25  # of the image's range, of a stroke against what is beside it
LETTERS: Final = 5  # in a line
HEIGHT: Final = (5, 40)
AREA: Final = (6, 400)
FULL: Final = 0.95  # of its box: a block is no letter
MANY: Final = 4096  # glyphs; more are a pattern, no text


def stands(image: NDArray[Any]) -> bool:
    """Say whether a line of letters stands at the edge of a 2-D image, brighter or darker than what is around it.

    What a stroke is: a top-hat, white or black, above a quarter of the image's range. A letter: 8-connected, of a letter's
    height and area. A line: five letters at one height, within twelve heights of one another.
    """
    values = image.astype(np.float32)
    least = CONTRAST * float(np.ptp(values)) if values.size else 0.0
    if least <= 0:
        return False
    rows = int(len(values) * EDGE)
    return any(_lettered(band, least=least) for band in (values[:rows], values[len(values) - rows :]) if band.size)


def _lettered(band: NDArray[np.float32], *, least: float) -> bool:
    from scipy import ndimage  # noqa: PLC0415  (only copies are looked at)

    hats = ndimage.white_tophat(band, size=(STROKE, STROKE)), ndimage.black_tophat(band, size=(STROKE, STROKE))
    return any(_in_line(hat > least) for hat in hats)


def _in_line(strokes: NDArray[np.bool_]) -> bool:
    from scipy import ndimage  # noqa: PLC0415

    labels, count = ndimage.label(strokes, structure=np.ones((3, 3)))
    if not LETTERS <= count <= MANY * 8:
        return False
    boxes = np.array([[side for where in box for side in (where.start, where.stop)] for box in ndimage.find_objects(labels)])
    area = np.bincount(labels.ravel())[1:]
    height, width = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
    letter = (height >= HEIGHT[0]) & (height <= HEIGHT[1]) & (width <= HEIGHT[1])
    letter &= (area >= AREA[0]) & (area <= AREA[1]) & (area < FULL * height * width)
    foot, left, tall = boxes[letter, 1], boxes[letter, 2], height[letter]
    if len(tall) > MANY:
        return False
    return any(
        int(
            (
                (np.abs(foot - foot[at]) <= 0.35 * tall[at])
                & (np.abs(left - left[at]) <= 12 * tall[at])
                & (2 * tall >= tall[at])
                & (tall <= 2 * tall[at])
            ).sum()
        )
        >= LETTERS
        for at in range(len(tall))
    )
