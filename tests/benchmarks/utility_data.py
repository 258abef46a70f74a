"""The patients of `make bench-training`: features of the procedural prior, labels, hospitals, and a split fixed in advance.

LIDC: the largest usable lesion of each patient, rendered as in `make demo` and cut out by the product's own recipe; patches are
kept under out/bench. pneumonia28: real chest X-rays, one a record, as the data set says nothing of patients.
"""

import hashlib
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from client.imaging.prepare import prepare
from client.imaging.tensor import to_tensor
from client.inside import Acquisition, Volume
from common.errors import DataError, NotSetUp
from deploy.demo import lidc
from deploy.demo.cohort import POSITIVE_ABOVE, VERSION
from deploy.demo.render import anatomy, render
from deploy.demo.scanner import SCANNERS, reproducible
from tests import learning

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "out" / "bench"
GIVEN = Path(os.environ.get("MOTET_TEST_DATA", ROOT.parent / "shared" / "data"))
HOSPITALS = 5
LIDC_SIDE, PNEUMONIA_SIDE = 32, 40
TRAIN, TEST = 0, 1
TEST_SHARE = 0.25  # of lidc; pneumonia28 has a test part of its own
NOTHING = Acquisition(manufacturer="", kernel="", kvp=float("nan"), slice_thickness_mm=float("nan"))


class Absent(Exception):
    """A data set is not on this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """What a benchmark trains on. One view a patient."""

    name: str
    views: np.ndarray  # (patient, 2, side, side), float32
    features: np.ndarray  # (patient, feature + 1), float64: the frozen embedding, then one
    labels: np.ndarray  # (patient,), 0 or 1
    hospitals: np.ndarray  # (patient,)
    parts: np.ndarray  # (patient,): TRAIN or TEST

    def told(self):
        """Counts for the report."""
        names = {TRAIN: "train", TEST: "test"}
        return {
            "patients": {name: int((self.parts == part).sum()) for part, name in names.items()},
            "positive": {name: int(self.labels[self.parts == part].sum()) for part, name in names.items()},
            "train_per_hospital": np.bincount(self.hospitals[self.parts == TRAIN], minlength=HOSPITALS).tolist(),
            "features": self.features.shape[1] - 1,
        }


def embedded(views):
    """The prior's frozen features of each view, and a one for the bias."""
    network = learning.built(learning.study(side=views.shape[-1], edge=True))
    with torch.no_grad():
        parts = [network.embed(torch.from_numpy(views[at : at + 256])) for at in range(0, len(views), 256)]
    found = torch.cat(parts).numpy().astype(np.float64)
    return np.concatenate([found, np.ones((len(found), 1))], axis=1)


def pneumonia28(side=PNEUMONIA_SIDE):
    """All three parts, identical pictures once (the test part keeps them), dealt to hospitals after a shuffle."""
    path = GIVEN / "pneumonia28.npz"
    if not path.is_file():
        raise Absent(f"{path.name} is not there; set MOTET_TEST_DATA to the folder that holds it")
    images, labels, parts, seen = [], [], [], set()
    with np.load(path, allow_pickle=False) as held:
        for part, name in ((TEST, "test"), (TRAIN, "val"), (TRAIN, "train")):
            for image, label in zip(held[f"{name}_images"], held[f"{name}_labels"].ravel(), strict=True):
                digest = hashlib.sha256(image.tobytes()).digest()
                if digest not in seen:
                    seen.add(digest)
                    images.append(image)
                    labels.append(int(label))
                    parts.append(part)
    zoomed = [ndimage.zoom(one / 255.0, side / one.shape[0], order=1, grid_mode=True, mode="nearest") for one in images]
    views = np.stack([np.stack([one, np.hypot(*np.gradient(one))]) for one in zoomed]).astype(np.float32)
    dealt = np.random.default_rng(28).permutation(len(views)) % HOSPITALS
    return _data("pneumonia28", views, np.array(labels), dealt, np.array(parts))


def lidc_nodules(*, told):
    """One patch a patient; mean malignancy above 3 is positive. Hospital k scans with scanner k (the fifth with the first)."""
    try:
        lesions = lidc.lesions(lidc.find())
    except (NotSetUp, DataError) as error:
        raise Absent(error.what) from None
    shuffled = np.random.default_rng(3).permutation(len(lesions))
    places = np.empty(len(lesions), np.int64)
    places[shuffled] = np.arange(len(lesions))
    hospitals = places % HOSPITALS
    cache = CACHE / f"lidc_patches_{VERSION}_{LIDC_SIDE}.npz"
    if cache.is_file():
        with np.load(cache, allow_pickle=False) as held:
            views = held["views"]
    else:
        views = np.empty((len(lesions), 2, LIDC_SIDE, LIDC_SIDE), np.float32)
        with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
            numbers = range(len(lesions))
            for number, patch in zip(
                numbers, pool.map(patch_of, lesions, numbers, hospitals.tolist(), chunksize=4), strict=True
            ):
                views[number] = patch
                told(number + 1, len(lesions))
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(cache.with_suffix(".partial.npz"), views=views)
        cache.with_suffix(".partial.npz").rename(cache)
    parts = np.where(places < TEST_SHARE * len(lesions), TEST, TRAIN)
    labels = np.array([int(one.malignancy > POSITIVE_ABOVE) for one in lesions])
    return _data("lidc", views, labels, hospitals, parts)


def patch_of(lesion, number, hospital, recipe=None):
    """One patient's scan, rendered, resampled and cut out by the product's steps; `recipe`: another than the benchmark's."""
    scanner = SCANNERS[hospital % len(SCANNERS)]
    body = anatomy(lesion.readings[0], scanner=scanner, random=reproducible(1, "utility", number, "body"))
    made = render(lesion.readings[0], body, scanner=scanner, random=reproducible(1, "utility", number, "scan"))
    spacing = (scanner.thickness_mm, scanner.pixel_mm, scanner.pixel_mm)
    volume = Volume(
        patient=str(number),
        series="0",
        modality="CT",
        voxels=made.voxels_hu.astype(np.float32),
        affine=np.diag([*spacing, 1.0]),
        spacing_mm=spacing,
        acquisition=NOTHING,
        region=made.region,
    )
    recipe = recipe or learning.study(side=LIDC_SIDE, edge=True).recipe
    return to_tensor(prepare(volume, recipe=recipe), recipe=recipe).pixels


def _data(name, views, labels, hospitals, parts):
    return Data(name=name, views=views, features=embedded(views), labels=labels, hospitals=hospitals, parts=parts)
