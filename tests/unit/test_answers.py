"""Claims about what the guard's child answers: whatever it says, the parent takes an image or finds that it makes no sense."""

from typing import Any

import numpy as np
import pytest

from client.imaging import answers
from client.imaging.limits import Limits

IDENTITY = {"patient_id": "p", "issuer": "", "study": "1", "series": "2", "instance": "3", "frame_of_reference": "4"}
GOOD: dict[str, Any] = {
    "identity": IDENTITY,
    "position_mm": [0, 0, 0],
    "orientation": [1, 0, 0, 0, 1, 0],
    "spacing_mm": [1, 1],
    "acquisition": {"manufacturer": "", "kernel": "", "kvp": 100, "slice_thickness_mm": 1},
    "modality": "CT",
    "of_series": "2",
    "references": [],
    "phase": [],
}
PIXELS = np.zeros((2, 2), np.float32)
KINDS: dict[str, tuple[list[int], dict[str, Any]]] = {
    "slice": ([2, 2], {"pixels": PIXELS}),
    "projection": ([2, 2], {"pixels": PIXELS}),
    "frames": ([1, 2, 2], {"pixels": PIXELS[None], "placed": np.zeros((1, 11)), "phase": np.zeros((1, 0))}),
    "seg": ([1, 2, 2], {"bits": np.zeros(1, np.uint8), "positions_mm": np.zeros((1, 3))}),
    "contours": ([], {"points_mm": np.zeros((3, 3)), "ends": np.array([[3.0, 1.0]])}),
}
LIES: tuple[Any, ...] = (
    *(None, "x", [], {}, 1, -1, True, float("nan"), float("inf"), 10**400),
    *([[]], ["a"], {"a": 1}, [10**400, 1], [-1, -1], [0, 0], [2, -2, -2], [0, 2, 2]),
)
ARRAYS = (np.zeros(0, np.float32), np.zeros((0, 3)), np.zeros((1, 2, 3, 4)), np.array(1.0), np.full((3, 3), np.nan))


def sense(head: dict[str, Any], *, arrays: dict[str, Any], with_pixels: bool) -> Any:
    """Return what was read, None where the answer makes no sense; nothing else may be raised."""
    try:
        return answers.parse(head, arrays=arrays, with_pixels=with_pixels, limits=Limits())
    except answers.SENSELESS:
        return None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("with_pixels", [True, False])
def test_a_lie_makes_no_sense_and_raises_nothing_else(kind: str, with_pixels: bool) -> None:
    shape, arrays = KINDS[kind]
    honest = {**GOOD, "kind": kind, "shape": shape}
    assert sense(honest, arrays=arrays, with_pixels=with_pixels) is not None
    for name in honest:
        for lie in LIES:
            found = sense({**honest, name: lie}, arrays=arrays, with_pixels=with_pixels)
            for one in getattr(found, "slices", (found,)):
                assert min(getattr(one, "rows", 1), getattr(one, "columns", 1)) >= 1  # of which an array is made
    for name in arrays:
        for lie in ARRAYS:
            sense(honest, arrays={**arrays, name: lie}, with_pixels=with_pixels)
