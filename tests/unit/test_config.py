"""The two parties' folders: private, made once, and nothing approved but what the hash names."""

import os
import stat
import tomllib
from decimal import Decimal
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client import config
from client.config import Home
from client.origin import ledger_origin
from common import roster
from common.errors import AlreadyExists, ConfigError, NotSetUp, RosterNotApproved, StudyNotApproved
from common.ledger import note, post_quantum
from common.roster import Member
from server import config as server_config
from server.config import Settings
from tests import federation

CHOICES = {
    "name": "hosp-a",
    "epsilon_cap": Decimal("3.50"),
    "delta_cap": Decimal("1e-6"),
    "hospitals_min": 3,
    "colluders_min": 1,
    "patients_min": 5,
    "exact_releases_max": 7,
}
STUDY = federation.study()


def create(folder, **changes):
    places = {"scans": Path("/scans"), "clinical": Path("/clinical.csv")}
    config.create(folder, **{**CHOICES, **places, **changes})
    return Home(folder)


@pytest.fixture
def home(tmp_path):
    return create(tmp_path / "hosp")


def make_roster(home, *, own=None, name="hosp-a", **changed):
    origin, key = ledger_origin(name), config.ledger_key(home)
    keys = {"ledger_key": note.key_of(origin, key=key).vkey, "ledger_ml_dsa": post_quantum.key_of(origin, key=key).vkey}
    members = [
        Member(name=name, identity=own or identity(home), node_key="x", relay_certificate="", **{**keys, **changed}),
        Member(
            name="hosp-b",
            identity=Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex(),
            ledger_key="x",
            node_key="x",
            relay_certificate="",
        ),
    ]
    return roster.sign(federation="fed", coordinator="hub", key=Ed25519PrivateKey.generate(), members=tuple(members))


def identity(home):
    return config.identity_key(home).public_key().public_bytes_raw().hex()


def tree(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def modes(folder):
    return {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_folders_are_0700_and_keys_0600_under_any_umask(umask, tmp_path):
    before = os.umask(umask)
    try:
        create(tmp_path / "hosp")
        server_config.create(
            tmp_path / "hub", settings=Settings(name="hub", federation="fed", address="h:1", superlink="h:1", lane="h:2")
        )
    finally:
        os.umask(before)
    for folder, keys in (
        ("hosp", ("keys/identity.pem", "keys/ledger.pem", "keys/pseudonym.key", "relay/node", "relay/tls.key")),
        ("hub", ("keys/identity.pem",)),
    ):
        seen = modes(tmp_path / folder)
        assert {seen[key] for key in keys} == {0o600}
        assert {seen[name] for name in seen if (tmp_path / folder / name).is_dir()} == {0o700}


def test_a_new_site_says_what_was_chosen(home):
    site = config.read_site(home)
    assert (site.name, str(site.scans), str(site.clinical)) == ("hosp-a", "/scans", "/clinical.csv")
    for key in ("epsilon_cap", "delta_cap", "hospitals_min", "colluders_min", "patients_min", "exact_releases_max"):
        assert getattr(site.policy, key) == CHOICES[key]
    assert site.policy.allowed_studies == ()
    assert site.policy.approved_roster is None


def test_a_second_init_is_refused_and_changes_nothing(home):
    before, seen = tree(home.folder), modes(home.folder)
    with pytest.raises(AlreadyExists):
        create(home.folder, name="other")
    assert tree(home.folder) == before
    assert modes(home.folder) == seen


def test_a_second_coordinator_is_refused_and_changes_nothing(tmp_path):
    one = Settings(name="hub", federation="fed", address="h:1", superlink="h:1", lane="h:2")
    server_config.create(tmp_path / "hub", settings=one)
    before = tree(tmp_path)
    with pytest.raises(AlreadyExists):
        server_config.create(tmp_path / "hub", settings=one)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "Upper"),
        ("name", ""),
        ("name", "a/b"),
        ("name", 'a"\nscans = "x'),
        ("epsilon_cap", Decimal(0)),
        ("epsilon_cap", Decimal(-1)),
        ("delta_cap", Decimal(0)),
        ("delta_cap", Decimal(1)),
        ("hospitals_min", 2),
        ("hospitals_min", 65),
        ("colluders_min", -1),
        ("patients_min", 0),
        ("exact_releases_max", -1),
    ],
)
def test_a_choice_outside_its_bounds_is_refused_by_its_key_and_makes_nothing(key, value, tmp_path):
    with pytest.raises(ConfigError, match=f"--{key.replace('_', '-')}: "):
        create(tmp_path / "hosp", **{key: value})
    assert not (tmp_path / "hosp").exists()


@pytest.mark.parametrize("value", ["NaN", "Infinity"])
def test_a_cap_that_is_no_number_is_refused(value, tmp_path):
    with pytest.raises(ValueError, match="finite"):
        create(tmp_path / "hosp", epsilon_cap=Decimal(value))
    assert not (tmp_path / "hosp").exists()


@pytest.mark.parametrize("path", ['/scans "quoted"', "/scans\\back", "/scäns", "/a\nb"])
def test_any_path_survives_the_file(path, tmp_path):
    home = create(tmp_path / "hosp", scans=Path(path))
    assert str(config.read_site(home).scans) == path


@pytest.mark.parametrize(
    ("before", "after", "key"),
    [
        ("[policy]", "[policy]\nepsilon_limit = 3", r"policy\.epsilon_limit: unknown key"),
        ("name =", "nick = 'x'\nname =", "nick: unknown key"),
        ("patients_min = 5", "", r"policy\.patients_min: Field required"),
        ("epsilon_cap = 3.5", "epsilon_cap = inf", r"policy\.epsilon_cap"),
        ("epsilon_cap = 3.5", "epsilon_cap = nan", r"policy\.epsilon_cap"),
        ("epsilon_cap = 3.5", "epsilon_cap = 'lots'", r"policy\.epsilon_cap"),
        ("hospitals_min = 3", "hospitals_min = 1", r"policy\.hospitals_min"),
        ("allowed_studies = []", "allowed_studies = ['all']", r"policy\.allowed_studies\.0"),
        ("[policy]", "[policy", "not TOML"),
        ("[policy]", "[policy]\npatients_min = 1", "not TOML"),
    ],
)
def test_a_wrong_site_file_is_refused_with_the_key(before, after, key, home):
    text = home.site_file.read_text()
    assert before in text
    home.site_file.write_text(text.replace(before, after, 1))
    with pytest.raises(ConfigError, match=key):
        config.read_site(home)


def test_a_site_file_that_is_missing_or_unreadable_is_refused(home, tmp_path):
    with pytest.raises(NotSetUp, match="init"):
        config.read_site(Home(tmp_path / "none"))
    for data in (b"\xff", b"\0"):
        home.site_file.write_bytes(data)
        with pytest.raises(ConfigError):
            config.read_site(home)
    home.site_file.unlink()
    home.site_file.mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        config.read_site(home)


READERS = {"identity.pem": config.identity_key, "ledger.pem": config.ledger_key, "pseudonym.key": config.pseudonym_key}


@pytest.mark.parametrize("name", sorted(READERS))
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o601])
def test_a_key_that_others_can_read_is_refused(name, mode, home):
    READERS[name](home)
    (home.keys / name).chmod(mode)
    with pytest.raises(ConfigError, match="read by others"):
        READERS[name](home)


@pytest.mark.parametrize("name", sorted(READERS))
def test_a_key_that_is_missing_is_a_missing_set_up(name, home):
    (home.keys / name).unlink()
    with pytest.raises(NotSetUp):
        READERS[name](home)


def test_two_hospitals_have_no_key_in_common(tmp_path):
    one, other = create(tmp_path / "one"), create(tmp_path / "other")
    assert identity(one) != identity(other)
    assert config.pseudonym_key(one) != config.pseudonym_key(other)
    assert config.identity_key(one).private_bytes_raw() != config.ledger_key(one).private_bytes_raw()


def test_a_roster_is_approved_by_its_hash_and_read_back(home):
    wanted = make_roster(home)
    with pytest.raises(RosterNotApproved, match="No roster"):
        config.approved_roster(home, config.read_site(home))
    config.approve_roster(home, data=wanted.bytes(), expected_hash=wanted.hash())
    assert config.approved_roster(home, config.read_site(home)) == wanted
    assert "# fewer in a round: refused" in home.site_file.read_text()  # comments survive


@pytest.mark.parametrize("change", [lambda text: "0" * 64, lambda text: text.upper(), lambda text: text[:8], lambda text: ""])
def test_a_wrong_hash_approves_nothing(change, home):
    wanted = make_roster(home)
    before = tree(home.folder)
    with pytest.raises(RosterNotApproved, match="not the one you gave"):
        config.approve_roster(home, data=wanted.bytes(), expected_hash=change(wanted.hash()))
    with pytest.raises(StudyNotApproved, match="not the one you gave"):
        config.approve_study(home, data=STUDY.canonical_bytes(), expected_hash=change(STUDY.hash()))
    assert tree(home.folder) == before


@pytest.mark.parametrize("name", ["hosp-a", "hosp-c"])
def test_a_roster_without_this_hospitals_key_is_refused(name, home):
    stranger = Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex()
    wanted = make_roster(home, own=stranger if name == "hosp-a" else None, name=name)
    before = tree(home.folder)
    with pytest.raises(RosterNotApproved, match="does not hold this hospital's key"):
        config.approve_roster(home, data=wanted.bytes(), expected_hash=wanted.hash())
    assert tree(home.folder) == before


def test_a_roster_with_another_ledger_key_or_without_the_second_that_was_there_is_refused(home):
    origin, stranger = ledger_origin("hosp-a"), Ed25519PrivateKey.generate()
    bare = make_roster(home, ledger_ml_dsa="")
    with pytest.raises(RosterNotApproved, match="second key"):  # it was sent with the enrolment
        config.approve_roster(home, data=bare.bytes(), expected_hash=bare.hash())
    (home.approved / "roster.json").write_bytes(bare.bytes())  # approved when hospitals had no second key yet
    config._edit_policy(home, "approved_roster", bare.hash())
    again = make_roster(home, ledger_ml_dsa="")
    config.approve_roster(home, data=again.bytes(), expected_hash=again.hash())
    whole = make_roster(home)
    config.approve_roster(home, data=whole.bytes(), expected_hash=whole.hash())
    before = tree(home.folder)
    for changed in (
        {"ledger_key": note.key_of(origin, key=stranger).vkey},
        {"ledger_ml_dsa": post_quantum.key_of(origin, key=stranger).vkey},
        {"ledger_ml_dsa": ""},
    ):
        wanted = make_roster(home, **changed)
        with pytest.raises(RosterNotApproved, match="does not hold"):
            config.approve_roster(home, data=wanted.bytes(), expected_hash=wanted.hash())
    assert tree(home.folder) == before


def test_a_roster_that_was_swapped_on_disk_is_not_the_approved_one(home):
    one, other = make_roster(home), make_roster(home)
    config.approve_roster(home, data=one.bytes(), expected_hash=one.hash())
    (home.approved / "roster.json").write_bytes(other.bytes())
    with pytest.raises(RosterNotApproved, match="not the approved one"):
        config.approved_roster(home, config.read_site(home))


def test_a_study_is_approved_once_also_when_asked_twice(home):
    for _ in range(2):
        config.approve_study(home, data=STUDY.canonical_bytes(), expected_hash=STUDY.hash())
    site = config.read_site(home)
    assert site.policy.allowed_studies == (STUDY.hash(),)
    assert config.approved_study(home, site, study_hash=STUDY.hash()) == STUDY
    other = federation.study(name="other-study")
    config.approve_study(home, data=other.canonical_bytes(), expected_hash=other.hash())
    assert set(config.read_site(home).policy.allowed_studies) == {STUDY.hash(), other.hash()}


def test_a_study_that_is_not_approved_withdrawn_or_swapped_is_refused(home):
    with pytest.raises(StudyNotApproved):
        config.approved_study(home, config.read_site(home), study_hash=STUDY.hash())
    config.approve_study(home, data=STUDY.canonical_bytes(), expected_hash=STUDY.hash())
    path = home.approved / f"{STUDY.hash()}.study.json"
    path.write_bytes(federation.study(name="other-study").canonical_bytes())
    with pytest.raises(StudyNotApproved, match="not the approved one"):
        config.approved_study(home, config.read_site(home), study_hash=STUDY.hash())
    path.write_bytes(STUDY.canonical_bytes())
    home.site_file.write_text(home.site_file.read_text().replace(STUDY.hash(), "0" * 64))
    with pytest.raises(StudyNotApproved):
        config.approved_study(home, config.read_site(home), study_hash=STUDY.hash())
    assert config.known_study(home, study_hash=STUDY.hash()) == STUDY.canonical_bytes()


@pytest.mark.parametrize("study_hash", ["", "../site", "0" * 64, "x" * 10_000])
def test_a_hash_that_names_nothing_is_not_approved(study_hash, home):
    with pytest.raises(StudyNotApproved):
        config.approved_study(home, config.read_site(home), study_hash=study_hash)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b"[" * 100_000], ids=lambda data: repr(data[:5]))
def test_something_else_is_not_approved(data, home):
    before = tree(home.folder)
    for approve in (config.approve_roster, config.approve_study):
        with pytest.raises(ConfigError):
            approve(home, data=data, expected_hash="0" * 64)
    assert tree(home.folder) == before


def test_a_socket_path_that_the_kernel_cannot_hold_is_refused(tmp_path):
    home = create(tmp_path / ("x" * 120))
    with pytest.raises(ConfigError, match="too long"):
        home.socket(config.read_site(home))


def test_the_ledger_records_the_whole_policy(home):
    policy = config.read_site(home).policy
    assert set(policy.snapshot()) == set(type(policy).model_fields) - {"approved_roster", "officers"}  # unset


@pytest.mark.parametrize(
    "change",
    [
        {"name": "Upper"},
        {"federation": ""},
        {"federation": "a b"},
        {"address": "h:0"},
        {"superlink": "h:65536"},
        {"lane": "h:-1"},
        {"lane": "h:1"},
        {"address": "h:2"},
        {"address": ":1"},
        {"address": "h"},
        {"lane": "x" * 65 + ":2"},
        {"address": "::1:1"},
        {"address": "[::1:1"},
        {"address": "[fe80::1%eth0]:1"},
        {"address": "[hub]:1"},
        {"address": 'h";x:1'},
        {"address": "h{}:1"},
    ],
)
def test_a_wrong_coordinator_is_refused_and_makes_nothing(change, tmp_path):
    settings = Settings(**{"name": "hub", "federation": "fed", "address": "h:1", "superlink": "h:1", "lane": "h:2", **change})
    with pytest.raises(ConfigError):
        server_config.create(tmp_path / "hub", settings=settings)
    assert not (tmp_path / "hub").exists()


@pytest.mark.parametrize(
    ("text", "host"), [("hub.example:443", "hub.example"), ("127.0.0.1:443", "127.0.0.1"), ("[::1]:443", "::1")]
)
def test_an_address_names_a_host_or_either_kind_of_ip(text, host):
    assert server_config.split(text) == (host, 443)


def test_a_coordinators_folder_reads_back_or_says_what_is_missing(tmp_path):
    settings = Settings(
        name="hub", federation="fed", address="hub.example:443", superlink="127.0.0.1:18443", lane="127.0.0.1:18444"
    )
    home = server_config.create(tmp_path / "hub", settings=settings)
    assert server_config.read_settings(home) == settings
    server_config.identity_key(home)
    with pytest.raises(NotSetUp, match="enrol"):
        server_config.read_roster(home)
    for data in (
        b"",
        b"[]",
        b"\xff",
        b'{"name": "x"}',
        b'{"name":"a","federation":"b","address":"c:1","superlink":"c:1","lane":"c:2","extra":"2"}',
    ):
        home.settings_file.write_bytes(data)
        with pytest.raises(ConfigError, match="cannot be read"):
            server_config.read_settings(home)
    nobody = server_config.Home(tmp_path / "none")
    for read in (server_config.read_settings, server_config.identity_key, server_config.read_roster):
        with pytest.raises(NotSetUp):
            read(nobody)


def test_the_template_is_toml_that_a_person_can_read(home):
    text = home.site_file.read_text()
    assert set(tomllib.loads(text)) == {"name", "scans", "clinical", "socket", "policy"}
