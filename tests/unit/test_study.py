"""The study: every key known, every bound declared, one hash; anything else is refused with the key's name."""

from decimal import Decimal

import pytest
from pydantic import ValidationError

from common import canonical, study
from common.errors import ConfigError
from common.study import Study
from tests import federation
from tests.commands import STUDY_FILE

GOOD = federation.study()
PLAIN = canonical.decode(GOOD.canonical_bytes())


def changed(path, value):
    """The study's JSON with one key replaced."""
    plain = canonical.decode(GOOD.canonical_bytes())
    *parents, key = path.split(".")
    part = plain
    for parent in parents:
        part = part[int(parent)] if isinstance(part, list) else part[parent]
    part[int(key) if isinstance(part, list) else key] = value
    return canonical.encode(plain)


def toml(text, tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(text)
    return study.read_toml(path)


def test_a_study_reads_back_from_its_bytes():
    assert study.parse(GOOD.canonical_bytes()) == GOOD
    assert GOOD.hash() == canonical.digest(PLAIN)
    assert GOOD.variable("mean_hu").unit == "HU"
    with pytest.raises(KeyError):
        GOOD.variable("nothing")


def test_columns_travel_in_the_order_of_the_dictionary():
    assert GOOD.columns() == tuple(variable.name for variable in GOOD.variables)
    fewer = federation.study(
        statistics={
            "correlation": ["malignancy", "mean_hu"],
            "regression": {"outcome": "malignancy", "predictors": ["depth_min_mm"]},
        }
    )
    assert fewer.columns() == ("mean_hu", "depth_min_mm", "malignancy")


@pytest.mark.parametrize("path", ["extra", "privacy.extra", "training.extra", "recipe.extra", "variables.1.extra"])
def test_an_unknown_key_is_named(path):
    with pytest.raises(ConfigError, match=rf"{path}: unknown key"):
        study.parse(changed(path, 1))


# Choices that a study may go without.
OPTIONAL = {"irregular", "finetune", "local", "filters", "points", "patch", "head", "positive_above", "classes", "thresholds"}


@pytest.mark.parametrize("part", ["privacy", "training", "recipe"])
def test_no_key_has_a_default(part):
    for key in PLAIN[part].keys() - OPTIONAL:
        plain = canonical.decode(GOOD.canonical_bytes())
        del plain[part][key]
        with pytest.raises(ConfigError, match=rf"{part}\.{key}: Field required"):
            study.parse(canonical.encode(plain))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("hospitals_min", 1),
        ("hospitals_min", 65),
        ("hospitals_min", "three"),
        ("patience_s", 0),
        ("patience_s", 86_401),
        ("title", "x" * 201),
        ("title", 5),
        ("title", "gone\x1b[2J"),
        ("title", "two\nlines"),
        ("title", "turned \u202e round"),
        ("name", "Upper"),
        ("name", "../x"),
        ("name", ""),
        ("name", None),
        ("variables", []),
        ("variables.0.source", "web"),
        ("variables.0.unit", "mm\x1b]0;title\x07"),
        ("variables.0.unit", "m\rm"),
        ("variables.0.lower", None),
        ("variables.0.upper", "NaN"),
        ("variables.0.upper", "Infinity"),
        ("variables.0.upper", "1e999999999"),
        ("privacy", []),
        ("privacy.noise_multiplier", "0"),
        ("privacy.noise_multiplier", "-1"),
        ("privacy.noise_multiplier", "inf"),
        ("privacy.noise_multiplier", "nan"),
        ("privacy.noise_multiplier", [1]),
        ("privacy.clip_norm", "0"),
        ("privacy.sampling_rate", "1.01"),
        ("privacy.sampling_rate", "0"),
        ("privacy.delta", "0"),
        ("privacy.delta", "1"),
        ("privacy.delta", "-0.1"),
        ("privacy.delta", "0." + "0" * 30 + "1"),
        ("privacy.colluders", -1),
        ("privacy.rounds_void_allowed", 1001),
        ("training.model", "transformer"),
        ("training.recipe", "tail"),
        ("training.prior_sha256", "A" * 64),
        ("training.steps", 0),
        ("training.steps", 100_001),
        ("training.optimiser.momentum", "1"),
        ("training.held_out_fraction", "0"),
        ("training.held_out_fraction", "1"),
        ("training.score_bins", 4),
        ("training.patients_per_step_max", 0),
        ("recipe.patch_voxels", 7),
        ("recipe.denoise", "magic"),
        ("recipe.edge_channel", "maybe"),
        ("statistics.correlation", ["mean_hu"]),
        ("statistics.regression.predictors", []),
    ],
)
def test_a_value_outside_its_bounds_is_refused_with_its_key(path, value):
    with pytest.raises(ConfigError, match=path.replace(".", r"\.")):
        study.parse(changed(path, value))


NOISE = {"noise_multiplier": Decimal(4), "patients_max": 60, "colluders": 1, "rounds_void_allowed": 0}
SIZE = {"patients_declared": 40, "held_out_fraction": Decimal("0.5")}  # 80 patients together


@pytest.mark.parametrize("delta", ["0.5", "0.0125", "0.0124"])
@pytest.mark.parametrize("part", ["privacy", "statistics.privacy", "evaluation.privacy"])
def test_a_delta_of_one_over_the_patients_or_more_is_refused_with_its_key(part, delta):
    private = {
        "privacy": {"privacy": {"delta": Decimal(delta)}},
        "statistics.privacy": {"statistics": {"privacy": {**NOISE, "clip_norm": Decimal(2), "delta": Decimal(delta)}}},
        "evaluation.privacy": {"evaluation": {"privacy": {**NOISE, "delta": Decimal(delta)}}},
    }[part]
    if delta == "0.0124":
        assert federation.study(training=SIZE, **private).deltas()[f"{part}.delta"] == Decimal(delta)
        return
    with pytest.raises(ValidationError, match=rf"\b{part}\.delta must be below 1 over the study's 80 patients"):
        federation.study(training=SIZE, **private)


def test_a_delta_that_is_too_large_is_refused_as_it_is_written_and_as_it_is_sent(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(STUDY_FILE.read_text().replace("\ndelta = 0.00001", "\ndelta = 0.5"))
    for read in (lambda: study.read_toml(path), lambda: study.parse(changed("privacy.delta", "0.5"))):
        with pytest.raises(ConfigError, match=r"privacy\.delta must be below 1 over the study's .* choose a smaller one"):
            read()


@pytest.mark.parametrize("path", ["training.label", "statistics.regression.outcome"])
def test_a_variable_that_is_not_declared_is_named(path):
    with pytest.raises(ConfigError, match="grade is not among the variables"):
        study.parse(changed(path, "grade"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("statistics.correlation", ["mean_hu", "lenght"]),
        ("statistics.regression.predictors", ["lenght"]),
        ("statistics.descriptive", ["lenght"]),
        ("statistics.groups", [{"outcome": "lenght", "factor": "malignancy"}]),
        ("statistics.ancova", [{"outcome": "malignancy", "factor": "mean_hu", "covariates": ["lenght"]}]),
        ("training.label", "lenght"),
    ],
)
def test_a_name_that_is_not_declared_is_told_with_its_key(key, value):
    with pytest.raises(ConfigError, match=rf"{key}: lenght is not among the variables"):
        study.parse(changed(key, value))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\xff\xfe\x00\x01", "no UTF-8 text"),
        (b"x = " + b"[" * 5000, "nested too deeply"),
        (b"x = 1\ny y", "line 2"),
        (b"y", "end"),
    ],
)
def test_what_is_no_toml_is_said_with_a_line_only_where_there_is_one(data, says, tmp_path):
    (tmp_path / "x.toml").write_bytes(data)
    with pytest.raises(ConfigError, match=says) as raised:
        study.read_toml(tmp_path / "x.toml")
    assert ("line" in raised.value.action) == ("line" in says)


def test_a_variable_is_declared_once_and_an_outcome_does_not_predict_itself():
    with pytest.raises(ConfigError, match=r"variables\.0: .*lower must be below upper"):
        study.parse(changed("variables.0.lower", "200"))
    with pytest.raises(ConfigError, match="declared twice"):
        study.parse(changed("variables.0.name", "depth_min_mm"))
    with pytest.raises(ConfigError, match="outcome is among the predictors"):
        study.parse(changed("statistics.regression.predictors", ["mean_hu", "malignancy"]))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("hospitals_min", "3"),
        ("recipe.edge_channel", 0),
        ("privacy.noise_multiplier", 2),
        ("privacy.noise_multiplier", "2.0"),
        ("privacy.noise_multiplier", " 2"),
        ("training.steps", True),
    ],
)
def test_another_spelling_of_the_same_study_is_refused(path, value):
    with pytest.raises(ConfigError):
        study.parse(changed(path, value))


def test_a_float_is_not_read_from_bytes():
    data = GOOD.canonical_bytes().replace(b'"noise_multiplier":"2"', b'"noise_multiplier":2.0')
    assert data != GOOD.canonical_bytes()
    with pytest.raises(ConfigError, match="canonical JSON"):
        study.parse(data)


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b"null", b"1", b"\xff", GOOD.canonical_bytes() + b"\n", GOOD.canonical_bytes()[:-1], b"[" * 100_000],
    ids=lambda data: repr(data[-12:]),
)
def test_something_else_is_not_a_study(data):
    with pytest.raises(ConfigError, match=r"Propose it again"):
        study.parse(data)


@pytest.mark.parametrize("title", ["Größe und Tiefe", "肺结节长径与年龄", "µm², 5 % to 95 %"])
def test_a_title_of_any_language_is_one(title):
    assert study.parse(changed("title", title)).title == title


def test_a_study_does_not_change():
    with pytest.raises(ValidationError):
        GOOD.privacy.delta = Decimal("0.5")
    with pytest.raises(ValidationError):
        Study.model_validate({})


def test_a_study_that_a_person_wrote_keeps_its_decimals(tmp_path):
    text = (federation_root() / "deploy" / "demo" / "study.toml").read_text()
    assert toml(text, tmp_path).privacy.delta == Decimal("0.00001")
    finer = toml(text.replace("clip_norm = 0.5", "clip_norm = 0.10000000000000000000001"), tmp_path)
    assert finer.privacy.clip_norm == Decimal("0.10000000000000000000001")


@pytest.mark.parametrize("number", ["inf", "-inf", "nan", "1e999", '"many"', "true", "[]", "1979-05-27"])
def test_a_study_that_a_person_wrote_has_finite_numbers(number, tmp_path):
    text = (federation_root() / "deploy" / "demo" / "study.toml").read_text()
    with pytest.raises(ConfigError, match=r"privacy\.clip_norm"):
        toml(text.replace("clip_norm = 0.5", f"clip_norm = {number}"), tmp_path)


def test_a_wrong_key_of_a_person_is_named_and_its_value_is_not_shown(tmp_path):
    text = (federation_root() / "deploy" / "demo" / "study.toml").read_text()
    with pytest.raises(ConfigError, match=r"training\.stepps: unknown key") as caught:
        toml(text.replace("steps = 8", "stepps = 8").replace('"lidc-demo"', '"SECRET VALUE"'), tmp_path)
    assert "training.steps: Field required" in str(caught.value)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "says"), [(b"a = ", "not TOML"), (b"\xff", "not TOML"), (b"a=1\na=2", "not TOML"), (b"", "name")]
)
def test_a_file_that_is_no_study_is_refused(data, says, tmp_path):
    path = tmp_path / "study.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=says):
        study.read_toml(path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            study.read_toml(path)


def test_other_errors_are_explained_by_their_text():
    assert study.explain(ValueError("x")) == "x"


def federation_root():
    from pathlib import Path

    return Path(federation.__file__).parents[1]
