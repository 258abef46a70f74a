"""The recipe of a study: how every hospital makes a patch of a scan."""

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from common.part import Number, Part, Positive


class Filters(Part):
    """What a recipe does beyond denoising: the correction of an MR's bias field, and by what edges become a channel.

    Without this section there is no correction, and edges are the magnitude of the gradient.
    """

    bias_field: Literal["none", "n4"]
    edges: Literal["gradient", "sobel", "canny"]


class Points(Part):
    """How a lesion that nobody drew is found from a point that somebody marked (client/imaging/segment.py).

    Searched as far as `reach_mm`; set aside where the least Dice with the two other methods is below `agreement_min`.
    """

    method: Literal["threshold", "region-growing", "watershed"]
    reach_mm: Positive
    agreement_min: Annotated[Decimal, Field(gt=0, le=1, max_digits=24)]


class Recipe(Part):
    """Preprocessing, the same at every hospital: resample, filter, window, crop.

    Without `points` only lesions that were drawn (DICOM SEG, RT Structure Set) are measured.
    """

    spacing_mm: Positive
    denoise: Literal["none", "gaussian", "median", "curvature-anisotropic"]
    denoise_mm: Number
    window_lower_hu: Number
    window_upper_hu: Number
    patch_voxels: Annotated[int, Field(ge=8, le=256)]
    edge_channel: bool
    filters: Filters | None = None
    points: Points | None = None
