"""One patient moves the noisy Gram by at most the claimed sensitivity, whatever the row, the clipping and the others."""

import math
from decimal import Decimal
from functools import cache

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from client import summarise
from client.inside import Cohort
from common import announcement, canonical, terms
from common.mechanism import ROUNDING_SLACK_MOST, TAIL
from common.noisy_moments import box, packed_size, unpack
from common.privacy import GramPrivacy
from common.study import Study
from tests import federation

BOUNDS = ((0.0, 128.0), (-1024.0, 1024.0), (0.0, 256.0), (0.0, 8.0))
NOISE = st.decimals("0.1", "10000", places=2)
CLIP = st.decimals("1", "4", places=6)
ROW = st.tuples(*(st.sampled_from((low, high)) | st.floats(low, high) for low, high in BOUNDS))
PRIVACY = {
    "noise_multiplier": Decimal(4),
    "clip_norm": Decimal("1.5"),
    "delta": Decimal("1e-6"),
    "patients_max": 64,
    "colluders": 1,
    "rounds_void_allowed": 0,
}


@cache
def study(clip_norm):
    products = "malignancy ~ mean_hu * depth_min_mm * longest_diameter_mm"  # 8 columns
    return federation.study(statistics={"models": [products], "privacy": {**PRIVACY, "clip_norm": clip_norm}})


def cohort(rows):
    table = np.array(rows, dtype=np.float64).reshape(-1, len(BOUNDS))
    return Cohort(
        patients=tuple(f"{row:04d}" for row in range(len(table))),
        columns=tuple(variable.name for variable in federation.study().variables),
        table=table,
        bags=tuple(() for _ in table),
        views=np.zeros((0, 1, 32, 32), np.float32),
        set_aside=(),
    )


def packed(rows, *, clip_norm):
    wanted = study(clip_norm)
    size = packed_size(len(wanted.columns()))
    mechanism = announcement.mechanism_for(wanted, task="gram", hospitals=4, dimension=size)
    return summarise.summarise_privately(cohort(rows), study=wanted, mechanism=mechanism).values, mechanism


@settings(max_examples=60)
@given(rows=st.lists(ROW, min_size=1, max_size=4), clip_norm=CLIP)
def test_every_clipped_row_is_within_the_clipping_norm_in_exact_arithmetic(rows, clip_norm):
    wanted = study(clip_norm)
    table = np.array([[_column(column, row) for column in wanted.design()] for row in rows])
    most = (float(clip_norm).as_integer_ratio(), 1 << summarise.UNIT_BITS)
    for integers in summarise.clipped_rows(table, study=wanted, clip_norm=float(clip_norm)):
        squares = sum(int(value) ** 2 for value in integers)  # the L2 norm of the packed v v', times 2**104
        assert squares * most[0][1] ** 2 <= (most[0][0] * most[1]) ** 2
        assert squares >= (1 << 2 * summarise.UNIT_BITS) * (1 - 1e-9)  # nothing is clipped below what is asked for


@settings(max_examples=40)
@given(rows=st.lists(ROW, max_size=6), clip_norm=CLIP, gaps=st.sets(st.integers(0, 5)))
def test_the_sum_is_the_packed_sum_of_the_complete_rows_clipped(rows, clip_norm, gaps):
    wanted, kept = study(clip_norm), [row for at, row in enumerate(rows) if at not in gaps]
    expected = np.zeros((len(wanted.columns()) + 1, len(wanted.columns()) + 1))
    for row in kept:
        scaled = [1.0]
        for column in wanted.design():
            centre, half = box(*wanted.bounds(column))
            scaled.append((_column(column, row) - centre) / half)
        v = np.array(scaled) * min(1.0, float(clip_norm) / math.hypot(*scaled))
        expected += np.outer(v, v)
    given_rows = [row if at not in gaps else (math.nan, *row[1:]) for at, row in enumerate(rows)]
    found, _ = packed(given_rows, clip_norm=clip_norm)
    assert np.allclose(unpack(found), expected, rtol=0, atol=1e-9)


@settings(max_examples=40)
@given(others=st.lists(ROW, max_size=6), one=ROW, clip_norm=CLIP)
def test_a_patient_more_or_less_moves_the_sum_by_at_most_the_claim(others, one, clip_norm):
    with_one, mechanism = packed([*others, one], clip_norm=clip_norm)
    without, _ = packed(others, clip_norm=clip_norm)
    moved = np.linalg.norm(with_one - without)
    assert moved <= mechanism.clipped_norm * (1 + mechanism.numerical_slack)
    on_grid = np.rint(with_one / mechanism.grid_step) - np.rint(without / mechanism.grid_step)
    assert np.linalg.norm(on_grid) * mechanism.grid_step <= mechanism.sensitivity
    assert np.abs(with_one).max() <= mechanism.coordinate_limit * mechanism.grid_step  # no patient is clamped away


@settings(max_examples=20)
@given(rows=st.lists(ROW, min_size=2, max_size=8), seed=st.integers(0, 99))
def test_the_order_of_patients_changes_no_bit(rows, seed):
    mixed = [rows[at] for at in np.random.default_rng(seed).permutation(len(rows))]
    assert packed(rows, clip_norm=Decimal(2))[0].tobytes() == packed(mixed, clip_norm=Decimal(2))[0].tobytes()


@settings(max_examples=60)
@given(
    noise=NOISE,
    clip_norm=st.decimals("1", "1000000", places=3),
    patients=st.integers(1, 1 << 22),
    hospitals=st.integers(2, 64),
    colluders=st.integers(0, 62),
    p=st.integers(2, terms.COLUMNS_MOST),
)
def test_no_allowed_study_can_leave_the_ring(noise, clip_norm, patients, hospitals, colluders, p):
    colluders = min(colluders, hospitals - 2)
    privacy = GramPrivacy.model_validate(
        {**PRIVACY, "noise_multiplier": noise, "clip_norm": clip_norm, "patients_max": patients, "colluders": colluders}
    )
    wanted = federation.study(statistics={"privacy": privacy.model_dump()})
    one = announcement.mechanism_for(wanted, task="gram", hospitals=hospitals, dimension=packed_size(p))
    if one.rounding_slack > ROUNDING_SLACK_MOST:
        return  # refused by every hospital
    reached = hospitals * one.coordinate_limit + TAIL * math.sqrt(hospitals) * 2**one.share_bits
    assert reached < 2**63
    assert Study.model_validate(canonical.decode(wanted.canonical_bytes())).hash() == wanted.hash()


def _column(column, row):
    names = [variable.name for variable in federation.study().variables]
    return math.prod(row[names.index(piece.variable)] for piece in column.pieces)
