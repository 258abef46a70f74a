"""The four simulated scanners: grid, kernel, noise, HU offset, and how each writes its files."""

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanner:
    """One hospital's scanner, and the share of lesions there that the readers rate above 3."""

    manufacturer: str
    model: str
    kernel: str
    matrix: int  # rows and columns
    pixel_mm: float
    slices: int
    thickness_mm: float  # also the step between slices
    blur_mm: float  # standard deviation of the point spread in the plane
    edge_gain: float  # unsharp masking of the sharp kernels; 0 is none
    noise_sd_hu: float
    noise_cut_per_mm: float  # frequency at which the ramp-filtered noise falls off
    offset_hu: float
    signed: bool  # signed pixels with intercept 0, else unsigned with intercept -1024
    implicit_vr: bool
    rescale_type: bool
    feet_first_numbering: bool  # instance 1 is the lowest slice
    file_name: str  # format of {number} and {uid}
    issuer: str
    kvp: int
    positive_share: float


SCANNERS = (
    Scanner(
        manufacturer="SIEMENS",
        model="Synthetic Sensation 64",
        kernel="B30f",
        matrix=128,
        pixel_mm=0.70,
        slices=22,
        thickness_mm=2.0,
        blur_mm=0.55,
        edge_gain=0.0,
        noise_sd_hu=18.0,
        noise_cut_per_mm=0.35,
        offset_hu=0.0,
        signed=False,
        implicit_vr=False,
        rescale_type=True,
        feet_first_numbering=False,
        file_name="IM-0001-{number:04d}.dcm",
        issuer="PLANTED-ISSUER-A",
        kvp=120,
        positive_share=0.36,
    ),
    Scanner(
        manufacturer="GE MEDICAL SYSTEMS",
        model="Synthetic LightSpeed 16",
        kernel="BONE",
        matrix=112,
        pixel_mm=0.82,
        slices=30,
        thickness_mm=1.25,
        blur_mm=0.35,
        edge_gain=0.6,
        noise_sd_hu=38.0,
        noise_cut_per_mm=0.55,
        offset_hu=8.0,
        signed=True,
        implicit_vr=False,
        rescale_type=False,
        feet_first_numbering=True,
        file_name="i{number:06d}.CTDC.dcm",
        issuer="PLANTED-ISSUER-B",
        kvp=140,
        positive_share=0.48,
    ),
    Scanner(
        manufacturer="Philips",
        model="Synthetic Brilliance 40",
        kernel="B",
        matrix=136,
        pixel_mm=0.66,
        slices=20,
        thickness_mm=2.5,
        blur_mm=0.85,
        edge_gain=0.0,
        noise_sd_hu=12.0,
        noise_cut_per_mm=0.25,
        offset_hu=-5.0,
        signed=False,
        implicit_vr=True,
        rescale_type=True,
        feet_first_numbering=True,
        file_name="CT.{uid}.dcm",
        issuer="PLANTED-ISSUER-C",
        kvp=120,
        positive_share=0.40,
    ),
    Scanner(
        manufacturer="TOSHIBA",
        model="Synthetic Aquilion",
        kernel="FC51",
        matrix=120,
        pixel_mm=0.76,
        slices=26,
        thickness_mm=1.5,
        blur_mm=0.45,
        edge_gain=0.3,
        noise_sd_hu=28.0,
        noise_cut_per_mm=0.45,
        offset_hu=3.0,
        signed=True,
        implicit_vr=False,
        rescale_type=True,
        feet_first_numbering=False,
        file_name="{number:05d}.dcm",
        issuer="PLANTED-ISSUER-D",
        kvp=120,
        positive_share=0.46,
    ),
)


def reproducible(seed: int, *labels: str | int) -> np.random.Generator:  # noqa: TID251  # a simulation, not a secret
    """Return the generator that belongs to a seed and labels: independent of the order in which patients are made."""
    digest = hashlib.sha256("\x1f".join(map(str, (seed, *labels))).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))  # noqa: TID251
