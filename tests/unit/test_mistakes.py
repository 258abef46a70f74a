"""A user's mistakes and damaged files: each once gave a traceback or passed unseen."""

import sys

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client import cli, config
from common import canonical, mechanism, roster, study
from common.announcement import Announcement, mechanism_for, parse
from common.errors import BadEnvelope, ConfigError
from server import cli as coordinator_cli
from server import config as sc
from server.journal import Journal
from tests import federation

WANTED = federation.study()
SHARE = mechanism_for(WANTED, task="train", hospitals=4, dimension=13)
GOOD = Announcement(
    run="r1", study=WANTED.hash(), roster="0" * 64, round=1, hospitals=("hosp-a", "hosp-b", "hosp-c"), task="train",
    index=1, dimension=13, blob_sha256="0" * 64, mechanism=SHARE,
)  # fmt: skip


def ended(app_main, *argv):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["x", *map(str, argv)])
        with pytest.raises(SystemExit) as ending:
            app_main()
    return ending.value.code


C = (
    "--name",
    "hosp-a",
    "--scans",
    "s",
    "--clinical",
    "c",
    "--epsilon-cap",
    "3",
    "--delta-cap",
    "1e-6",
    "--hospitals-min",
    "3",
    "--colluders-min",
    "1",
    "--patients-min",
    "5",
    "--exact-releases-max",
    "9",
)


def test_keys_that_normalise_to_one_are_refused():
    with pytest.raises(ValueError):
        canonical.encode({"\u00e9": 1, "e\u0301": 2})


def test_journal_continued_after_half_line(tmp_path):
    p = tmp_path / "j"
    p.write_bytes(b'{"type": "one"}\n{"type"')
    j = Journal(p)
    j.write({"type": "three"})
    assert list(j.events()) == [{"type": "one"}, {"type": "three"}]


def test_deep_toml(tmp_path):
    (tmp_path / "s.toml").write_text("a=" + "[" * 100000 + "]" * 100000)
    with pytest.raises(ConfigError):
        study.read_toml(tmp_path / "s.toml")


def test_announcement_types():
    for k, v in (("run", 5), ("study", []), ("roster", None), ("blob_sha256", {}), ("hospitals", [])):
        with pytest.raises(BadEnvelope):
            parse({**GOOD.plain(), k: v})


def test_mech_bool():
    with pytest.raises(ValueError):
        mechanism.from_entry({**SHARE.entry(), "colluders": True})


def test_mech_float():
    with pytest.raises(ValueError):
        mechanism.from_entry({**SHARE.entry(), "hospitals": 5.0})


def test_enrol_into_missing_folder(tmp_path):
    ended(cli.main, "init", "--home", tmp_path / "h", *C)
    assert ended(cli.main, "enrol", "--home", tmp_path / "h", tmp_path / "no" / "x") == 10


def test_init_on_a_file(tmp_path):
    (tmp_path / "h").write_text("")
    assert ended(cli.main, "init", "--home", tmp_path / "h", *C) == 10


def test_init_where_keys_exists(tmp_path):
    (tmp_path / "h" / "keys").mkdir(parents=True)
    assert ended(cli.main, "init", "--home", tmp_path / "h", *C) in (10, 11)
    assert not (tmp_path / "h" / "site.toml").exists()


def test_approve_not_json(tmp_path):
    ended(cli.main, "init", "--home", tmp_path / "h", *C)
    (tmp_path / "r").write_bytes(b"\x7fELF")
    assert ended(cli.main, "approve", "--home", tmp_path / "h", "--roster", tmp_path / "r") == 10


def test_approve_without_hash_shows_hash(tmp_path, capsys):
    ended(cli.main, "init", "--home", tmp_path / "h", *C)
    (tmp_path / "r").write_bytes(federation.study().canonical_bytes())
    capsys.readouterr()
    ended(cli.main, "approve", "--home", tmp_path / "h", "--study", tmp_path / "r")
    assert federation.study().hash() in capsys.readouterr().out


@pytest.mark.parametrize("host", ["a" * 70, "é"])
def test_coord_host(tmp_path, host):
    assert (
        ended(
            coordinator_cli.main,
            "init",
            "--home",
            tmp_path / "h",
            "--name",
            "hub",
            "--federation",
            "fed",
            "--address",
            host + ":1",
        )
        == 10
    )
    assert not (tmp_path / "h").exists()


def test_coord_key_mode(tmp_path):
    h = sc.create(tmp_path / "h", settings=sc.Settings(name="hub", federation="f", address="h:1", superlink="h:1", lane="h:2"))
    (h.keys / "identity.pem").chmod(0o644)
    with pytest.raises(ConfigError):
        sc.identity_key(h)


def test_settings_types(tmp_path):
    h = sc.create(tmp_path / "h", settings=sc.Settings(name="hub", federation="f", address="h:1", superlink="h:1", lane="h:2"))
    h.settings_file.write_text('{"name":1,"federation":[],"address":null,"superlink":"x","lane":"h:2"}')
    with pytest.raises(ConfigError):
        sc.read_settings(h)


def test_coord_identity_spelling():
    key = Ed25519PrivateKey.generate()
    members = tuple(
        roster.Member(
            name=name,
            identity=Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex(),
            ledger_key="k",
            node_key="n",
            relay_certificate="",
        )
        for name in ("hosp-a", "hosp-b")
    )
    body = roster.sign(federation="fed", coordinator="hub", key=key, members=members).body()
    body["coordinator"]["identity"] = body["coordinator"]["identity"].upper()
    signed = {**body, "signature": key.sign(roster.DOMAIN + canonical.encode(body)).hex()}
    with pytest.raises(ConfigError, match="64 hex"):
        roster.parse(canonical.encode(signed))


def test_status_damaged_key(tmp_path):
    ended(cli.main, "init", "--home", tmp_path / "h", *C)
    h = tmp_path / "h"
    (h / "keys" / "pseudonym.key").write_bytes(b"")
    with pytest.raises(ConfigError):
        config.pseudonym_key(config.Home(h))


def test_report_damaged(tmp_path):
    ended(
        coordinator_cli.main,
        "init",
        "--home",
        tmp_path / "h",
        "--name",
        "hub",
        "--federation",
        "fed",
        "--address",
        "127.0.0.1:1",
    )
    r = tmp_path / "h" / "runs" / "x"
    r.mkdir()
    (r / "result.json").write_text("{")
    assert ended(coordinator_cli.main, "report", "--home", tmp_path / "h") < 70
