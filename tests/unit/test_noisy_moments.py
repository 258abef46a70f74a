"""Noisy moments: how a matrix is packed, what an opened sum says, and that nothing exact can be made of them."""

import dataclasses
import importlib
import inspect
import math
import pkgutil
from decimal import Decimal

import numpy as np
import pytest

from common import announcement, noisy_moments
from common import study as studies
from common.moments import Moments
from common.noisy_moments import NoisyMoments, pack, packed_size, unpack
from server import infer
from server.infer import correlation, family, regression
from tests import federation

PRIVACY = {
    "noise_multiplier": Decimal(4),
    "clip_norm": Decimal("1.5"),
    "delta": Decimal("1e-6"),
    "patients_max": 64,
    "colluders": 1,
    "rounds_void_allowed": 1,
}
STUDY = federation.study(statistics={"privacy": PRIVACY})
SIZE = packed_size(4)
MECHANISM = announcement.mechanism_for(STUDY, task="gram", hospitals=4, dimension=SIZE)


def read(total):
    return noisy_moments.from_total(total, study=STUDY, mechanism=MECHANISM, epsilon="1.25")


def test_packing_keeps_the_norm_and_unpacks_to_the_same_matrix():
    half = np.random.default_rng(3).normal(size=(6, 6))
    matrix = half + half.T
    assert pack(matrix).shape == (packed_size(5),) == (21,)
    assert np.linalg.norm(pack(matrix)) == pytest.approx(np.linalg.norm(matrix), rel=1e-14)
    assert np.allclose(unpack(pack(matrix)), matrix, rtol=1e-15)
    assert pack(matrix)[:3].tolist() == [matrix[0, 0], matrix[0, 1] * math.sqrt(2), matrix[0, 2] * math.sqrt(2)]


@pytest.mark.parametrize("shape", [(2, 3), (4,), (2, 2, 2)])
def test_what_is_not_square_is_not_packed(shape):
    with pytest.raises(ValueError, match="square"):
        pack(np.zeros(shape))


@pytest.mark.parametrize("packed", [np.zeros(0), np.zeros(2), np.zeros(14), np.zeros((3, 1))])
def test_what_is_no_triangle_is_not_unpacked(packed):
    with pytest.raises(ValueError, match="triangle"):
        unpack(packed)


def test_an_opened_sum_is_in_units_of_the_rows_with_the_noise_that_is_in_it():
    total = np.arange(SIZE, dtype=np.float64)
    found = read(total)
    assert found.columns == STUDY.columns()
    assert (found.centre[0], found.half[0]) == (64.0, 64.0)
    assert np.allclose(pack(found.matrix), total * MECHANISM.grid_step)
    assert found.sigma == pytest.approx(4 * MECHANISM.sensitivity * math.sqrt(4 / 3), rel=1e-12)  # 3 of 4 shares are honest
    assert found.sigma >= 4 * 1.5**2
    assert (found.clip_norm, found.epsilon, found.delta, found.hospitals) == (1.5, "1.25", "0.000001", 4)


def test_another_length_or_a_study_with_an_exact_gram_is_refused():
    with pytest.raises(ValueError, match="noisy Gram"):
        read(np.zeros(SIZE + 1))
    with pytest.raises(ValueError, match="noisy Gram"):
        noisy_moments.from_total(np.zeros(SIZE), study=federation.study(), mechanism=MECHANISM, epsilon="1")


def test_noisy_moments_are_no_moments():
    found = read(np.zeros(SIZE))
    assert not isinstance(found, Moments)
    assert not {"mean", "scatter", "index", "sums", "cross", "n"} & set(dir(found))
    with pytest.raises(ValueError, match="read-only"):
        found.matrix[0, 0] = 1


@pytest.mark.parametrize(
    "exact",
    [
        lambda found: correlation.correlate(found, names=STUDY.columns()),
        lambda found: regression.fit(found, outcome="malignancy", predictors=("mean_hu",)),
        lambda found: family.read(found, study=STUDY),
    ],
    ids=["correlation", "regression", "family"],
)
def test_no_exact_analysis_takes_them_so_no_naive_interval_comes_out(exact):
    with pytest.raises(AttributeError):
        exact(read(np.zeros(SIZE)))


def test_by_type_too_exact_analyses_take_exact_moments_alone():
    takers = [
        (module.name, name, hints)
        for module in pkgutil.iter_modules(infer.__path__, "server.infer.")
        if module.name != "server.infer.private"
        for name, one in vars(importlib.import_module(module.name)).items()
        if inspect.isfunction(one) and one.__module__ == module.name
        for hints in [list(one.__annotations__.values())]
    ]
    assert {name for _, name, hints in takers if Moments in hints} >= {"correlate", "fit", "read"}
    assert not [(module, name) for module, name, hints in takers if NoisyMoments in hints]
    assert not issubclass(NoisyMoments, Moments)


@pytest.mark.parametrize(
    "change",
    [
        {"columns": ("one",)},
        {"half": (1.0,)},
        {"matrix": np.zeros((4, 4))},
        {"matrix": np.zeros((5, 5), np.float32)},
        {"matrix": np.full((5, 5), np.nan)},
        {"matrix": np.triu(np.ones((5, 5)))},
        {"sigma": 0.0},
        {"sigma": math.inf},
        {"clip_norm": 0.0},
        {"hospitals": 0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_parts_that_do_not_fit_are_refused(change):
    fields = {one.name: getattr(read(np.zeros(SIZE)), one.name) for one in dataclasses.fields(NoisyMoments)}
    with pytest.raises(ValueError, match="noisy moments"):
        NoisyMoments(**{**fields, **change})


@pytest.mark.parametrize("key", sorted(PRIVACY))
def test_no_parameter_of_the_noise_has_a_default(key):
    less = {name: value for name, value in PRIVACY.items() if name != key}
    with pytest.raises(ValueError, match=rf"statistics\.privacy\.{key}"):
        federation.study(statistics={"privacy": less})


@pytest.mark.parametrize(
    "change",
    [
        {"noise_multiplier": Decimal(0)},
        {"noise_multiplier": Decimal("0.09")},
        {"noise_multiplier": Decimal("NaN")},
        {"noise_multiplier": Decimal(10_001)},
        {"clip_norm": Decimal("0.99")},
        {"clip_norm": Decimal("Infinity")},
        {"delta": Decimal(0)},
        {"delta": Decimal(1)},
        {"patients_max": 0},
        {"patients_max": 2**22 + 1},
        {"patients_max": 1.5},
        {"colluders": -1},
        {"colluders": 64},
        {"rounds_void_allowed": -1},
        {"epsilon": Decimal(1)},
    ],
    ids=str,
)
def test_a_study_with_noise_out_of_range_is_none(change):
    with pytest.raises(ValueError, match=rf"statistics\.privacy\.{next(iter(change))}"):
        federation.study(statistics={"privacy": {**PRIVACY, **change}})


def test_the_noise_is_part_of_what_a_hospital_approves():
    other = federation.study(statistics={"privacy": {**PRIVACY, "noise_multiplier": Decimal("3.9")}})
    assert len({STUDY.hash(), other.hash(), federation.study().hash()}) == 3
    assert studies.parse(STUDY.canonical_bytes()) == STUDY


@pytest.mark.parametrize(("lower", "upper"), [(0.0, 64.0), (0.1, 0.7), (-1e-300, 1e300), (1.0, 1.0 + 2**-52), (-3.3, 1e9)])
def test_the_box_of_a_column_is_as_narrow_as_its_bounds_and_holds_them(lower, upper):
    centre, half = noisy_moments.box(lower, upper)
    for x in (lower, upper, centre, lower + (upper - lower) / 3):
        assert abs((x - centre) / half) <= 1
    assert max(abs((x - centre) / half) for x in (lower, upper)) == 1
