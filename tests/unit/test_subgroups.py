"""An evaluation apart by sex and by maker, levels of factors: every class, small levels, and what would tell these."""

from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple

import numpy as np
import pytest
import torch

from client import pipeline
from common import model, scores, wire
from common.crypto import ring
from server import evaluation
from tests import asking, cohorts, federation, learning
from tests.cohorts import number
from tests.federation import HOSPITALS
from tests.heads import CLASSES

SEXES, MAKERS, CELL_MIN = ("f", "m"), ("acme", "boole", "curie"), 5
FEW = CELL_MIN - 1  # patients of curie's at every hospital, and men at the first
PATIENTS = 160  # a hospital
STUDY = federation.study(
    variables=[
        number("x1", -16, 16),
        number("x2", -16, 16),
        {"name": "sex", "source": "clinical", "unit": "1", "levels": SEXES},
        {"name": "manufacturer", "source": "image", "unit": "1", "levels": MAKERS},
        {"name": "malignancy", "source": "clinical", "unit": "1", "levels": CLASSES},
    ],
    statistics={"correlation": ["x1", "x2"], "regression": {"outcome": "x1", "predictors": ["x2"]}},
    privacy={"noise_multiplier": Decimal("0.5")},
    training={
        "head": "classes",
        "positive_above": None,
        "classes": CLASSES,
        "steps": 2,
        "learning_rate": Decimal(20),
        "patients_per_step_max": 256,
        "patients_declared": 160,
        "held_out_fraction": Decimal("0.75"),
    },
    evaluation={"subgroups": [{"variable": "sex"}, {"variable": "manufacturer"}]},
)
MEASURES = {"sensitivity": 1, "predictive_value": 0}  # of per_class: the axis of the confusion matrix that is summed


class HeldOut(NamedTuple):
    """Of one hospital's held-out patients: the levels' positions, the true class, and for which class each is taken."""

    sex: np.ndarray
    maker: np.ndarray
    true: np.ndarray
    taken: np.ndarray


def hospital(at: int) -> tuple[np.ndarray, np.ndarray]:
    """One hospital's table and views: the size of a blob decides the class; three of five patients are acme's."""
    random, order = np.random.default_rng(at), np.arange(PATIENTS)
    blobs = learning.cohort(PATIENTS, side=32, views=(1,), seed=at)
    sizes = blobs.table[:, 0]
    sex = order % 2 if at else (order < FEW).astype(int)
    maker = np.where(order >= PATIENTS - FEW, 2, (order % 5 >= 3).astype(int))
    x1 = random.normal(0, 2, PATIENTS)
    x2 = x1 + random.normal(0, 2, PATIENTS)
    return np.column_stack([x1, x2, sex, maker, np.digitize(sizes, np.quantile(sizes, [1 / 3, 2 / 3]))]), blobs.views


@pytest.fixture(scope="module")
def dealt() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {name: hospital(at) for at, name in enumerate(HOSPITALS)}


@pytest.fixture
def one(make_federation, dealt) -> federation.Federation:
    """A federation that holds these patients."""
    made = make_federation(cell_min=CELL_MIN, epsilon_cap=Decimal(1000))
    tables, views = ({name: both[at] for name, both in dealt.items()} for at in (0, 1))
    cohorts.put(made, STUDY, tables, views=views)
    return made


def held_out(one: federation.Federation, *, blob: bytes) -> Iterator[HeldOut]:
    """Each hospital's held-out patients, scored by the network alone."""
    network = model.build(STUDY.training, channels=1, patch_voxels=32)
    model.load(network, blob)
    for name in HOSPITALS:
        cohort = one.vaults[name].prepare(STUDY.hash())
        _, out = pipeline.training_rows(cohort, study=STUDY)
        sex, maker, true = cohort.table[out][:, 2:].astype(int).T
        with torch.no_grad():
            taken = network(torch.from_numpy(cohort.views[out])).numpy().argmax(axis=1)
        yield HeldOut(sex=sex, maker=maker, true=true, taken=taken)


def expected(everywhere: list[HeldOut]) -> dict[str, np.ndarray]:
    """The tables that the rule leaves: a small level goes with the next larger one to everybody else, and so do the rest."""
    told = {"sex": np.zeros((3, 3, 3), int), "manufacturer": np.zeros((4, 3, 3), int)}
    for at, patients in enumerate(everywhere):
        few_men = at == 0 and (patients.sex == 1).any()
        few_of_curie = (patients.maker == 2).any()
        for variable, levels, rest in (
            ("sex", patients.sex, few_men),
            ("manufacturer", patients.maker, few_of_curie & (patients.maker > 0)),
        ):
            rows = np.where(rest, len(told[variable]) - 1, levels)
            np.add.at(told[variable], (rows, patients.true, patients.taken), 1)
    return told


def test_a_small_sex_or_maker_and_the_level_that_would_tell_it_are_among_everybody_else(one):
    blob = model.initial(STUDY.training, channels=1, patch_voxels=32)
    everywhere = list(held_out(one, blob=blob))
    assert (everywhere[0].sex == 1).any()
    assert all(0 < (each.maker == 2).sum() < CELL_MIN for each in everywhere)
    _, words = asking.set_up(one, STUDY, "tables").secure_sum(
        task="evaluate",
        index=scores.models(STUDY),
        dimension=scores.dimension(STUDY),
        blob=wire.pack([blob] * scores.models(STUDY)),
        attempts=1,
    )
    values = ring.decode(words, bits=64).astype(np.int64)
    opened = scores.split(values, study=STUDY)
    wanted = expected(everywhere)
    pooled = opened.models[-1]["confusion"]
    for variable, table in wanted.items():
        assert np.array_equal(opened.details[variable], table)
        assert np.array_equal(table.sum(axis=0), pooled)
    women, men, others = wanted["sex"].sum(axis=2)
    assert (others >= CELL_MIN).all()  # all of the first hospital, so that its men are not everybody less its women
    assert (women >= CELL_MIN).all()
    assert (men >= CELL_MIN).all()
    acme, boole, curie, others = wanted["manufacturer"].sum(axis=2)
    assert curie.sum() == boole.sum() == 0
    few = sum(np.bincount(each.true[each.maker == 2], minlength=3) for each in everywhere)
    assert (others - few >= CELL_MIN).all()  # boole's patients are with curie's, and too many to tell these
    assert (acme >= CELL_MIN).all()


def test_a_run_tells_each_class_and_each_sex_and_maker_that_is_large_enough(one):
    result = one.run(STUDY)
    (folder,) = one.folder.glob("run-*")
    wanted = expected(list(held_out(one, blob=(folder / "model.safetensors").read_bytes())))
    told, matrix = result["training"]["evaluation"], wanted["sex"].sum(axis=0)
    assert (np.diag(matrix) > 0).sum() >= 2  # the model has learned to tell classes
    assert told["confusion"]["counts"] == matrix.tolist()
    for at, row in enumerate(told["confusion"]["per_class"]):
        assert (row["class"], row["patients"]) == (CLASSES[at], matrix[at].sum())
        for measure, axis in MEASURES.items():
            many = matrix.sum(axis=axis)[at]
            assert row[measure]["value"] == (pytest.approx(matrix[at, at] / many) if many else None)
        others = np.arange(len(CLASSES)) != at
        right = matrix[np.ix_(others, others)].sum() / matrix[others].sum()
        assert row["specificity"]["value"] == pytest.approx(right)
    shown = {one["variable"]: one["rows"] for one in told["subgroups"]}
    for variable, levels in (("sex", SEXES), ("manufacturer", MAKERS)):
        assert [row["group"] for row in shown[variable]] == [*levels, evaluation.REST]
        for row, table in zip(shown[variable], wanted[variable], strict=True):
            if table.sum() == 0:
                assert row == {"group": row["group"], "diagnosis": evaluation.NOBODY}
                continue
            assert row["patients"] == table.sum()
            assert row["accuracy"]["value"] == pytest.approx(np.trace(table) / table.sum())
            assert row["accuracy"]["low"] <= row["accuracy"]["value"] <= row["accuracy"]["high"]
    assert [row["group"] for row in shown["manufacturer"] if "diagnosis" in row] == ["boole", "curie"]
