"""Results of attacks that are given to the report: judged again by their own numbers, and on the page as they are."""

import json

import pytest

from common.audit import bundle, page, page_html, report, verify
from common.audit.attack import given
from common.audit.attack.check import CHECKS_MOST, LEVEL, Check
from common.errors import ConfigError, RecordDamaged
from tests import ledgers
from tests.ledgers import share

GOOD = Check(name="size of a share", claim="N(0, 16)", seen="0.999 of the claimed variance", p=0.4)
BAD = Check(name="clip", claim="1", seen="1.5", p=0.0)


def told(*checks, attack="conformance", **changed):
    plain = {"attack": attack, "holds": all(check.holds for check in checks), "checks": [check.plain() for check in checks]}
    return {**plain, **changed}


def inversion(*, psnr=8.0, holds=True, plain=120.0):
    read = [
        {"name": "plain gradient", "psnr_db": plain, "leaves": False},
        {"name": "what leaves", "psnr_db": psnr, "leaves": True},
    ]
    return {"attack": "inversion", "blank_db": 17.6, "read": read, "holds": holds}


def write(path, plain):
    path.write_text(json.dumps(plain))
    return path


def test_results_are_read_in_order_with_the_hash_of_their_file(tmp_path):
    paths = [write(tmp_path / "two.json", told(GOOD, BAD, attack="membership")), write(tmp_path / "one.json", told(GOOD))]
    paths.append(write(tmp_path / "three.json", inversion(plain=float("inf"))))
    found = given.read(paths)
    assert [one.attack for one in found] == ["conformance", "inversion", "membership"]
    assert [one.plain()["holds"] for one in found] == [True, True, False]
    assert all(len(one.sha256) == 64 for one in found)


def test_as_many_checks_are_read_as_the_false_alarm_is_divided_by_and_no_more(tmp_path):
    path = write(tmp_path / "one.json", told(*[GOOD] * CHECKS_MOST))
    assert len(given.read([path])[0].checks) == CHECKS_MOST
    with pytest.raises(RecordDamaged):
        given.read([write(path, told(*[GOOD] * (CHECKS_MOST + 1)))])


@pytest.mark.parametrize(
    "plain",
    [
        told(GOOD, holds=False),
        told(BAD, holds=True),
        told(),
        told(GOOD, attack="another"),
        told(GOOD, checks=[{**GOOD.plain(), "p": LEVEL / 2}]),
        told(GOOD, checks=[{**GOOD.plain(), "p": float("nan")}]),
        told(GOOD, checks=[{**GOOD.plain(), "p": True}]),
        told(GOOD, checks=[{**GOOD.plain(), "name": "a\x1b[2J"}]),
        told(GOOD, checks=[{**GOOD.plain(), "seen": "x" * 201}]),
        told(GOOD, checks="abc"),
        inversion(psnr=20.0),
        inversion(psnr=20.0, holds=None),
        {**inversion(psnr=200.0), "blank_db": float("inf")},
        {**inversion(), "blank_db": 10**400},
        told(GOOD, checks=[{**GOOD.plain(), "p": 10**400}]),
        [],
        {"attack": {}},
    ],
)
def test_what_contradicts_itself_or_is_no_result_is_refused(tmp_path, plain):
    with pytest.raises(RecordDamaged):
        given.read([write(tmp_path / "one.json", plain)])


@pytest.mark.parametrize("data", [b"", b"[" * 100_000, b"{}" + b" " * given.FILE_BYTES_MOST, b"\xff\xfe"])
def test_hostile_bytes_are_refused(tmp_path, data):
    path = tmp_path / "one.json"
    path.write_bytes(data)
    with pytest.raises(RecordDamaged):
        given.read([path])


def test_a_file_that_is_not_there_and_an_attack_given_twice_are_usage_errors(tmp_path):
    one = write(tmp_path / "one.json", told(GOOD))
    for paths in ([tmp_path / "none"], [tmp_path], [one, one]):
        with pytest.raises(ConfigError):
            given.read(paths)


@pytest.fixture(scope="module")
def verified(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    with ledgers.create(folder / "ledger.sqlite") as ledger:
        ledgers.run_rounds(ledger, rounds=2, mechanism=share())
        ledgers.export(folder / "aalen.zip", ledger)
    read = bundle.read(folder / "aalen.zip")
    return read, verify.verify(read, roster_hash=None)


def test_the_page_says_what_was_found_and_what_fails(verified, tmp_path):
    read, verdict = verified
    bare = report.facts(read, verdict)
    results = given.read([write(tmp_path / "a.json", told(GOOD, BAD)), write(tmp_path / "b.json", inversion())])
    facts = report.facts(read, verdict, attacks=results)
    html = page_html.render(page.page(facts, language="en"))
    assert "1 of 2 checks hold" in html
    assert "FAILS" in html
    assert "8.0 dB" in html  # of attacks other than conformance, every line
    assert "size of a share" not in html  # of conformance, what fails
    typed = " ".join(html.replace("\\\n", "").split())
    assert "motet-audit report aalen.bundle.zip --attacks conformance.json --attacks inversion.json --out ." in typed
    assert "No result of an attack was given" in page_html.render(page.page(bare, language="en"))
    assert report.plain(facts) != report.plain(bare)


def test_the_axes_of_the_burn_down_are_labelled(verified):
    html = page_html.render(page.page(report.facts(*verified), language="en"))
    for label in ("charges (releases with noise)", "epsilon (RDP), delta 0.00001", "cap 8"):
        assert f">{label}</text>" in html
