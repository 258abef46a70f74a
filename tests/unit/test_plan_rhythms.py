"""The plan of both rhythms: its epsilon is what a run is charged, its noise what a run has, its time what a link takes."""

import io
import json
import math
from decimal import Decimal

import numpy as np
import pytest
import tomlkit
from rich.console import Console
from typer.testing import CliRunner

from client.mask import mask
from common import announcement, model
from common.contribution import Contribution
from common.crypto import masking, ring, rng
from common.errors import ConfigError
from common.ledger import accounting
from common.ledger.receipt import Receipt
from server import plan_rhythms
from server.cli import app
from server.plan_rhythms import Link
from tests import federation, learning

LOCAL = {"local_steps": 5, "learning_rate": Decimal("0.5"), "update_norm": Decimal(10)}
NOTHING = Link()


def study(**parts):
    """The phantom study with so much noise that its epsilon is quickly told."""
    return federation.study(privacy={"noise_multiplier": Decimal(40), **parts.pop("privacy", {})}, **parts)


def rows(plan, *, hospitals=4, link=NOTHING, **named):
    return plan_rhythms.compare(plan, hospitals=hospitals, link=link, **named)["rhythms"]


@pytest.mark.parametrize("local", [None, LOCAL])
def test_both_rhythms_make_as_many_private_steps_and_the_studys_is_marked(local):
    plan = study(training={"steps": 4, "local": local})
    distributed, other = rows(plan, local_steps=2)
    assert [row["rhythm"] for row in (distributed, other)] == ["distributed", "local"]
    assert [row["chosen"] for row in (distributed, other)] == [local is None, local is not None]
    assert distributed["steps"] == other["steps"] == (20 if local else 4)
    assert (distributed["sums"], other["sums"]) == ((20, 4) if local else (4, 2))
    assert distributed["epsilon"] == other["epsilon"]  # of as many sampled Gaussians
    assert Decimal(other["epsilon_with_void_rounds"]["epsilon"]) > Decimal(distributed["epsilon_with_void_rounds"]["epsilon"])


def test_the_planned_epsilon_is_what_the_ledger_charges_for_the_announced_rounds():
    plan = study(training={"steps": 3, "local": LOCAL})
    size = model.trainable_size(plan.training, channels=1, patch_voxels=32)
    announced = announcement.mechanism_for(plan, task="train", hospitals=4, dimension=size + 1)
    _, local = rows(plan)
    assert local["numbers"] == size == announced.dimension
    charged, delta = [announced] * 3, plan.privacy.delta
    assert Decimal(local["epsilon_rdp"]) == accounting.round_up(accounting.epsilon_rdp(charged, delta=delta))
    assert Decimal(local["epsilon"]) == accounting.round_up(accounting.epsilon_pld(charged, delta=delta))


def test_local_noise_is_larger_by_the_root_of_the_honest_hospitals_and_adds_up_over_local_steps():
    distributed, local = rows(study(training={"local": LOCAL}))
    assert local["noise_std"] / distributed["noise_std"] == pytest.approx(math.sqrt(3), rel=2e-3)  # four, one of whom colludes
    assert local["noise_std_of_update"] == pytest.approx(local["noise_std"] * 0.5 * math.sqrt(5))
    assert distributed["noise_std_of_update"] == distributed["noise_std"]


def test_time_is_the_links_or_the_measured_rounds():
    plan = study(training={"steps": 4, "local": LOCAL})
    slow = rows(plan, link=Link(mbit_per_s=1.0, step_s=2.0))
    for row in slow:
        assert row["seconds"] == pytest.approx(8e-6 * (row["bytes_up"] + row["bytes_down"]) + 40)
    assert slow[1]["seconds"] < slow[0]["seconds"]
    measured = rows(plan, link=Link(mbit_per_s=1.0, round_s=7.0, step_s=2.0))
    assert [row["seconds"] for row in measured] == [140.0, 4 * 7.0 + 16 * 2.0]
    assert [row["seconds"] for row in rows(plan)] == [None, None]


def test_a_finetune_sends_the_head_first_and_then_the_network():
    plan = study(training={"recipe": "finetune", "steps": 4, "finetune": {"head_steps": 3, "head_learning_rate": Decimal(1)}})
    full, head = (study(training={"recipe": recipe, "steps": 1}) for recipe in ("full", "head"))
    up = [rows(one)[0]["bytes_up"] for one in (plan, full, head)]
    assert up[0] == up[1] + 3 * up[2]


def test_wrong_numbers_are_refused():
    for wrong in ({"mbit_per_s": 0.0}, {"mbit_per_s": -1.0}, {"round_s": math.nan}, {"step_s": -1.0}, {"step_s": math.inf}):
        with pytest.raises(ConfigError, match="not positive"):
            Link(**wrong)
    for steps in (0, 1, -4, 10**6):
        with pytest.raises(ConfigError, match="local rhythm"):
            rows(study(), local_steps=steps)
    with pytest.raises(ConfigError, match="cannot be made"):
        rows(study(privacy={"noise_multiplier": Decimal(10) ** 12}, training={"local": LOCAL}))


def test_the_noise_survives_every_number_of_dropouts_that_the_plan_states():
    plan = learning.study(noise_multiplier="40", colluders=1)
    dropouts = plan_rhythms.compare(plan, hospitals=6, link=NOTHING)["dropouts"]
    assert dropouts["away_most"] == 3
    assert [one["hospitals"] for one in dropouts["rosters"]] == [6, 5, 4, 3]
    for one in dropouts["rosters"]:
        assert one["noise_multiplier_faced"] == pytest.approx(40, rel=1e-9)
        assert one["noise_multiplier_opened"] == pytest.approx(40 * math.sqrt(one["hospitals"] / (one["hospitals"] - 1)))


@pytest.mark.parametrize("present", [4, 3])
def test_what_is_left_of_an_opened_sum_without_the_colluders_share_has_the_promised_noise(present):
    wide = learning.study(recipe="full", noise_multiplier="2", colluders=1)
    size = model.trainable_size(wide.training, channels=1, patch_voxels=learning.SIDE)
    mechanism = announcement.mechanism_for(wide, task="train", hospitals=present, dimension=size)
    shares = []
    for name in range(present - 1):  # the honest ones
        seed = {"peer": rng.secret_bytes(32)}
        receipt = Receipt(reservation=f"r/1/{name}", study="0" * 64, mechanism=mechanism, sequence=1)
        sent = [
            mask(Contribution(values=np.zeros(size), mechanism=mechanism), receipt=receipt, me="me", seeds=seed),
            _masks(mechanism, seed),
        ]
        words = [ring.from_bytes(data, dimension=size, bits=32) for data in sent]
        shares.append(ring.decode(ring.subtract(*words), bits=32) * mechanism.grid_step)
    left = np.sum(shares, axis=0)
    assert left.std() == pytest.approx(2 * mechanism.sensitivity, rel=5 / math.sqrt(2 * size))


def _masks(mechanism, seeds):
    """A vector of masks alone."""
    words = ring.zeros(mechanism.dimension, bits=mechanism.ring_bits)
    masking.add_masks(words, me="me", seeds=seeds, bits=mechanism.ring_bits)
    return ring.to_bytes(words)


def test_the_command_shows_both_rhythms(tmp_path):
    plan = study(training={"steps": 2, "local": LOCAL})
    path = tmp_path / "study.toml"
    path.write_text(_toml(plan))
    said = CliRunner().invoke(app, ["plan", str(path), "--link-mbit-s", "10", "--json"])
    assert said.exit_code == 0, said.output
    told = json.loads(said.output)["training"]["rhythms"]
    assert [row["rhythm"] for row in told] == ["distributed", "local"]
    assert told[1]["sums"] == 2
    shown = CliRunner().invoke(app, ["plan", str(path), "--hospitals", "4"])
    assert shown.exit_code == 0, shown.output
    assert "local *" in shown.output
    assert "Dropouts: the noise survives all but 3 hospitals away, 1 at once" in shown.output


def cells(link, **parts):
    """Both rhythms as they are printed: the cells of each line under its first, and all that was printed."""
    written = io.StringIO()
    told = plan_rhythms.compare(study(**parts), hospitals=4, link=link)
    plan_rhythms.show(told, console=Console(file=written, width=200))
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in written.getvalue().splitlines() if "│" in line]
    return {first: rest for first, *rest in lines}, told["rhythms"], written.getvalue()


def test_the_screen_shows_sums_epsilon_noise_bytes_and_time_of_both_rhythms():
    shown, told, _ = cells(Link(round_s=7.0, step_s=2.0), training={"steps": 4, "local": LOCAL})
    assert shown == {
        "secure sums": ["20", "4"],
        "private steps at each hospital": ["20", "20"],
        "epsilon": [row["epsilon"] for row in told],
        "epsilon with all void rounds": [row["epsilon_with_void_rounds"]["epsilon"] for row in told],
        "noise of a step's mean gradient, a parameter": ["1.3", "2.2"],  # 40 clip norms of 1, over 36 patients; by root 4/3, 4
        "noise of the mean update of a sum, a parameter": ["1.3", "2.5"],  # by 0.5 root 5 of the local steps
        "rounding of a sum, of the sensitivity": ["0.0005 %", "0.00086 %"],  # 40 root 13 over root 3, or 1, over 2^24
        "MB up and down, a hospital": [f"{(row['bytes_up'] + row['bytes_down']) / 1e6:.3g}" for row in told],
        "time": ["2.33 min", "1 min"],  # 20 sums of 7 s; 4 of them, and 16 steps of 2 s
    }
    assert all(Decimal(text) > 0 for text in shown["epsilon"] + shown["epsilon with all void rounds"])
    assert shown["epsilon"][0] == shown["epsilon"][1]


@pytest.mark.parametrize(
    ("link", "counted", "shown"),
    [
        (Link(), [False, False], ["give --link-mbit-s or --round-s"] * 2),
        (Link(round_s=7.0), [True, False], ["2.33 min", "28 s, without computing; give --step-s"]),  # a sum holds one step
        (Link(round_s=7.0, step_s=0.0), [True, True], ["2.33 min", "28 s"]),
        (Link(mbit_per_s=1.0, step_s=9.0), [True, True], None),
    ],
    ids=str,
)
def test_a_time_without_computing_is_said_to_be_without_it(link, counted, shown):
    printed, told, _ = cells(link, training={"steps": 4, "local": LOCAL})
    assert [row["computing_counted"] for row in told] == counted
    assert shown is None or printed["time"] == shown
    without, told, _ = cells(Link(mbit_per_s=1.0), training={"steps": 4, "local": LOCAL})
    assert all(text.endswith(", without computing; give --step-s") for text in without["time"])
    assert [row["computing_counted"] for row in told] == [False, False]


def test_a_rhythm_that_cannot_be_made_is_shown_with_its_reason():
    shown, told, said = cells(NOTHING, privacy={"noise_multiplier": Decimal(60_000)})
    assert [row.get("refused") is None for row in told] == [True, False]
    assert [row[1] for row in shown.values()] == ["cannot be made"] * len(shown)
    assert "The local rhythm, which is not the study's: The noise of train cannot be made" in said


def _toml(plan):
    plain = json.loads(plan.model_dump_json(exclude_none=True))
    return tomlkit.dumps(plain)
