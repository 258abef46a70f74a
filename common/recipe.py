"""The recipe of a study: how every hospital makes a patch of a scan."""

from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from common.modality import PLANAR, Modality
from common.part import Number, Part, Positive

DIFFUSION_VOXELS_MOST = Decimal("2.5")  # 50 steps of diffusion
Irregular = Literal["refuse", "resample"]
CUBE_VOXELS_MOST = 64  # along a side: a view of two channels is 2 MiB


class Filters(Part):
    """What a recipe does beyond denoising: the correction of an MR's bias field, and by what edges become a channel.

    Without this section there is no correction, and edges are the magnitude of the gradient.
    """

    bias_field: Literal["none", "n4"]
    edges: Literal["gradient", "sobel", "canny"]


class Points(Part):
    """How a lesion that nobody drew is found from a point or box that somebody marked (client/imaging/segment.py).

    Searched as far as `reach_mm`; set aside where the least Dice with the two other methods is below `agreement_min`.
    """

    method: Literal["threshold", "region-growing", "watershed"]
    reach_mm: Positive
    agreement_min: Annotated[Decimal, Field(gt=0, le=1, max_digits=24)]


class Recipe(Part):
    """Preprocessing, the same at every hospital: resample, filter, window, crop.

    A tilted or unevenly spaced stack is refused, or resampled through the true position of each slice, as `irregular` says.
    Only images of `modality` are read. The window is in HU of a CT, in hundredths of a standard deviation of what is normalised
    (common/modality.py).
    Without `points` only lesions that were drawn (DICOM SEG, RT Structure Set) are measured. The network sees of a lesion its
    largest axial "slice", or the "volume" around it, a cube: `patch_voxels` along each side, of `spacing_mm`.
    """

    modality: Modality
    spacing_mm: Positive
    denoise: Literal["none", "gaussian", "median", "curvature-anisotropic"]
    denoise_mm: Number
    window_lower: Number
    window_upper: Number
    patch_voxels: Annotated[int, Field(ge=8, le=256)]
    edge_channel: bool
    patch: Literal["slice", "volume"] = "slice"
    irregular: Irregular = "refuse"
    filters: Filters | None = None
    points: Points | None = None

    @property
    def channels(self) -> int:
        """Return how many channels a view has: the intensities, and edges where they are wanted."""
        return 1 + self.edge_channel

    @property
    def view_shape(self) -> tuple[int, ...]:
        """Return the shape of a view: (channel, row, column), or (channel, z, row, column) of a volume."""
        return (self.channels, *(self.patch_voxels,) * (3 if self.patch == "volume" else 2))

    @model_validator(mode="after")
    def _can_be_done(self) -> Self:
        if self.window_lower >= self.window_upper:
            raise ValueError("window_lower must be below window_upper")
        if self.denoise_mm < 0:
            raise ValueError("denoise_mm must be at least 0")
        if self.denoise == "curvature-anisotropic" and self.denoise_mm > DIFFUSION_VOXELS_MOST * self.spacing_mm:
            raise ValueError(f"denoise_mm is too wide for diffusion: at most {DIFFUSION_VOXELS_MOST} voxels")
        return self

    @model_validator(mode="after")
    def _fits_its_modality(self) -> Self:
        if self.filters is not None and self.filters.bias_field != "none" and self.modality != "MR":
            raise ValueError(f"a {self.modality} has no bias field: bias_field must be none")
        if self.modality in PLANAR and (self.points is not None or self.patch != "slice"):
            raise ValueError(f"a {self.modality} is one picture: it has no points, and its patch is a slice")
        return self

    @model_validator(mode="after")
    def _cube_fits(self) -> Self:
        if self.patch == "volume" and self.patch_voxels > CUBE_VOXELS_MOST:
            raise ValueError(f"the cube of a volume has at most {CUBE_VOXELS_MOST} voxels along a side: lower patch_voxels")
        return self
