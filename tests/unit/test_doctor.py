"""The self-checks: a sound set-up is well; each thing that goes wrong is named with its mend; nothing is changed or told."""

import json
import os
import re
import socket
import ssl
import threading
import time
from decimal import Decimal
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client import config as hospital
from client import doctor as hospital_doctor
from client import relay
from client.ledger import Ledger
from client.origin import ledger_origin
from client.relay import RelayHome
from common import findings, locks, ports, roster
from common.errors import ConfigError, NotSetUp
from common.ledger import note, post_quantum
from common.roster import Member
from server import certificates, config, door
from server import doctor as coordinator_doctor
from server.config import Home, Settings
from tests import lanes


def states(found):
    """Return the worst state of each check."""
    order = ("ok", "warn", "fail")
    worst = {}
    for one in found:
        assert one.what
        assert (one.state == "ok") == (one.mend == "")
        worst[one.check] = max(worst.get(one.check, "ok"), one.state, key=order.index)
    return worst


@pytest.fixture
def site(tmp_path):
    scans = tmp_path / "scans"
    scans.mkdir()
    (scans / "SECRET-NAME.dcm").write_text("x")
    (tmp_path / "clinical.csv").write_text("patient_id,age\nSECRET-ID,44\n")
    hospital.create(
        tmp_path / "h",
        name="hosp-a",
        scans=scans,
        clinical=tmp_path / "clinical.csv",
        epsilon_cap=Decimal(1),
        delta_cap=Decimal("1e-5"),
        hospitals_min=3,
        colluders_min=1,
        patients_min=3,
        exact_releases_max=2,
    )
    return hospital.Home(tmp_path / "h")


def approve(home, *, names=("hosp-a", "hosp-b", "hosp-c")):
    """Approve a roster that names this hospital."""
    members = []
    for name in names:
        mine = name == "hosp-a"
        key = hospital.identity_key(home) if mine else Ed25519PrivateKey.generate()
        kept = RelayHome(home.relay)
        members.append(
            Member(
                name=name,
                identity=key.public_key().public_bytes_raw().hex(),
                ledger_key=note.key_of(ledger_origin(name), key=hospital.ledger_key(home)).vkey,
                ledger_ml_dsa=post_quantum.key_of(ledger_origin(name), key=hospital.ledger_key(home)).vkey,
                node_key=kept.node_public.read_text().strip() if mine else name,
                relay_certificate=kept.certificate.read_text() if mine else "",
            )
        )
    signed = roster.sign(federation="f", coordinator="hub", key=Ed25519PrivateKey.generate(), members=tuple(members))
    hospital.approve_roster(home, data=signed.bytes(), expected_hash=signed.hash())


def test_a_fresh_hospital_lacks_a_roster_a_study_and_a_vault_and_nothing_else(site):
    found = states(hospital_doctor.vault_side(site))
    assert {check for check, state in found.items() if state == "fail"} == {"roster", "vault"}
    assert {"folder", "keys", "disk", "sync", "ledger", "budget", "gpu", "versions"} <= {
        check for check, state in found.items() if state == "ok"
    }


def test_an_approved_roster_names_this_relay_until_its_key_changes(site):
    approve(site)
    found = states(hospital_doctor.vault_side(site))
    assert (found["roster"], found["studies"], found["clinical"]) == ("ok", "warn", "ok")
    mine = RelayHome(site.relay)
    assert hospital_doctor.known(site, mine).state == "ok"
    other = relay.create(site.folder / "other", name="hosp-a", socket=site.folder / "s")
    assert hospital_doctor.known(site, other).state == "fail"


@pytest.mark.parametrize(
    ("spoil", "check"),
    [
        (lambda home: home.folder.chmod(0o755), "folder"),
        (lambda home: (home.keys / "ledger.pem").chmod(0o640), "keys"),
        (lambda home: (home.keys / "pseudonym.key").unlink(), "keys"),
        (lambda home: home.ledger.write_bytes(b"junk" * 500), "ledger"),
        (lambda home: home.ledger.unlink(), "ledger"),
        (lambda home: (home.folder.parent / "scans").rename(home.folder.parent / "moved"), "scans"),
        (lambda home: (home.folder.parent / "clinical.csv").write_text("id,age\n1,2\n"), "clinical"),
        (lambda home: (home.folder.parent / "clinical.csv").unlink(), "clinical"),
    ],
)  # fmt: skip
def test_what_is_wrong_at_the_vault_is_named(site, spoil, check):
    approve(site)
    spoil(site)
    assert states(hospital_doctor.vault_side(site))[check] == "fail"


def test_a_raised_cap_that_nobody_signed_is_why_the_vault_answers_nothing(site):
    stated = hospital.read_site(site)
    with Ledger.open(site.ledger, origin=ledger_origin(stated.name), key=hospital.ledger_key(site), clock=lambda: 1) as ledger:
        ledger.record_policy(stated.policy.snapshot())
    assert states(hospital_doctor.vault_side(site))["policy"] == "ok"
    text = re.sub(r"(?m)^exact_releases_max = \d+", "exact_releases_max = 99", site.site_file.read_text())
    site.site_file.write_text(text)
    (told,) = [one for one in hospital_doctor.vault_side(site) if one.check == "policy"]
    assert told.state == "fail"
    assert "answers nothing" in told.what
    assert "name two officers" in told.mend


def test_a_vault_that_still_reads_the_scans_is_said_to_do_so(site):
    with locks.hold(site.lock, busy="x"):
        reading = [one for one in hospital_doctor.vault_side(site) if one.check in {"vault", "socket"}]
        assert reading == [hospital_doctor.READING]
        assert "still reads the scans" in reading[0].what
        stale = site.socket(hospital.read_site(site))
        stale.touch()
        found = states(hospital_doctor.vault_side(site))
        assert (found["vault"], found["socket"]) == ("ok", "fail")


def test_a_trial_without_a_door_on_one_machine_is_a_warning_at_the_hospital_too(site, other_side):
    other_side.status = 200
    found = {
        one.check: one.state
        for one in hospital_doctor.relay_side(
            RelayHome(site.relay),
            superlink=other_side.server_address,
            lane_at=("127.0.0.1", ports.free()),
            ca=other_side.ca,
            reading=True,
        )
    }
    assert found["control"] == "warn"
    assert "socket" not in found


def test_a_relays_folder_that_was_not_restored_is_named(site):
    approve(site)
    RelayHome(site.relay).node_public.unlink()
    found = hospital_doctor.known(site, RelayHome(site.relay))
    assert (found.state, "Restore the relay's folder" in found.mend) == ("fail", True)


def test_a_self_check_changes_nothing_and_tells_nothing_of_a_patient(site):
    def everything():
        return {path: path.read_bytes() for path in site.folder.rglob("*") if path.is_file() and "sqlite-" not in path.name}

    before = everything()
    told = json.dumps([one.plain() for one in hospital_doctor.vault_side(site)])
    assert everything() == before
    assert "SECRET" not in told
    assert "44" not in told.replace("\\u", "")


def test_root_does_not_leave_files_in_anothers_folder(site, hub):
    if os.geteuid() != 0:
        pytest.skip("only root can give folders away")
    for home, look in ((site, hospital_doctor.vault_side), (hub, coordinator_doctor.look)):
        os.chown(home.folder, 64001, 64001)
        with pytest.raises(ConfigError, match="its owner"):
            list(look(home))


def test_a_folder_that_is_none_is_an_error_and_not_a_finding(tmp_path):
    with pytest.raises(NotSetUp):
        list(hospital_doctor.vault_side(hospital.Home(tmp_path)))
    with pytest.raises(NotSetUp):
        list(coordinator_doctor.look(Home(tmp_path)))


class Answering(BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response_only(self.server.status)
        if self.server.date is not None:
            self.send_header("Date", self.server.date)
        self.send_header("Content-Length", self.server.length)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def other_side(tmp_path):
    """A TLS server with a certificate of our authority; what it answers can be set."""
    for part in ("keys", "certificates"):
        (tmp_path / part).mkdir()
    certificates.create(tmp_path / "certificates", keys=tmp_path / "keys", federation="f", hosts=("127.0.0.1",))
    server = HTTPServer(("127.0.0.1", 0), Answering)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificates" / "server.crt", tmp_path / "keys" / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.status, server.date, server.ca = 403, formatdate(time.time(), usegmt=True), tmp_path / "certificates" / "ca.crt"
    server.length = "0"
    server.handle_error = lambda *_: None
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def reached(server, *, closed=True, **changes):
    where = {"address": server.server_address, "ca": server.ca, **changes}
    return states(findings.reach(where["address"], ca=where["ca"], closed=closed))


def test_a_coordinator_behind_a_door_is_well(other_side):
    assert set(reached(other_side).values()) == {"ok"}


@pytest.mark.parametrize("status", [200, 404, 415])
def test_a_control_interface_that_answers_is_found(other_side, status):
    other_side.status = status
    assert reached(other_side)["control"] == "fail"
    assert reached(other_side, closed=False)["control"] == "warn"


def test_an_answer_that_announces_more_than_it_sends_is_not_waited_for(other_side):
    other_side.length = str(1 << 40)
    assert set(reached(other_side).values()) == {"ok"}


@pytest.mark.parametrize(
    ("off_s", "state"), [(0, "ok"), (-50, "ok"), (90, "warn"), (-90, "warn"), (400, "fail"), (-4e6, "fail")]
)
def test_a_clock_is_judged_by_the_other_sides(other_side, off_s, state):
    other_side.date = formatdate(time.time() + off_s, usegmt=True)
    assert reached(other_side)["clock"] == state


@pytest.mark.parametrize("date", [None, "", "yesterday", "Thu, 99 Xxx 2026"])
def test_a_side_without_a_time_is_only_a_warning(other_side, date):
    other_side.date = date
    assert reached(other_side)["clock"] == "warn"


def test_another_authority_a_wrong_name_a_closed_port_and_junk_are_told_apart(other_side, tmp_path):
    (tmp_path / "o" / "k").mkdir(parents=True)
    certificates.create(tmp_path / "o", keys=tmp_path / "o" / "k", federation="o", hosts=("127.0.0.1",))
    assert reached(other_side, ca=tmp_path / "o" / "ca.crt")["tls"] == "fail"
    assert reached(other_side, address=("localhost", other_side.server_address[1]))["tls"] == "fail"
    assert reached(other_side, address=("127.0.0.1", ports.free()))["port"] == "fail"
    assert reached(other_side, address=("no-such-host.invalid", 443))["name"] == "fail"
    (tmp_path / "junk").write_text("junk")
    assert reached(other_side, ca=tmp_path / "junk")["ca"] == "fail"
    with socket.create_server(("127.0.0.1", 0)) as plain:

        def junk():
            link, _ = plain.accept()
            with link:
                link.sendall(b"SSH-2.0-x\r\n" * 9)
                link.recv(9999)

        thread = threading.Thread(target=junk)
        thread.start()
        assert {"tls": "fail"}.items() <= reached(other_side, address=plain.getsockname()).items()
        thread.join()


@pytest.mark.parametrize(("days", "state"), [(-1, "fail"), (3, "warn"), (29, "warn"), (31, "ok")])
def test_a_certificate_is_judged_by_its_days(days, state):
    assert findings.days_left("tls", time.time() + 86_400 * days + 60).state == state


def test_the_lane_tells_a_known_relay_from_a_stranger_and_a_closed_lane(tmp_path):
    signed, homes = lanes.certified(tmp_path, ("hosp-a", "hosp-b"))
    ca = tmp_path / "certificates" / "ca.crt"
    stranger = relay.create(tmp_path / "x", name="hosp-a", socket=tmp_path / "s")
    served = lanes.listening(tmp_path, signed)
    try:
        at = ("127.0.0.1", served.port)
        assert "lets this relay in" in hospital_doctor._lane(homes["hosp-a"], at, ca=ca).what
        assert hospital_doctor._lane(stranger, at, ca=ca).state == "fail"
    finally:
        served.close()
    assert "no study runs" in hospital_doctor._lane(homes["hosp-a"], at, ca=ca).what


@pytest.fixture
def hub(tmp_path):
    settings = Settings(
        name="hub", federation="f", **{name: f"127.0.0.1:{ports.free()}" for name in ("address", "superlink", "lane")}
    )
    home = config.create(tmp_path / "c", settings=settings)
    certificates.create(home.certificates, keys=home.keys, federation="f", hosts=("127.0.0.1",))
    door.write(home, settings)
    return home


def test_a_coordinator_that_was_only_set_up_must_still_be_started(hub):
    found = states(coordinator_doctor.look(hub))
    assert {check for check, state in found.items() if state == "fail"} <= {"serve", "door", "port"}
    assert {"serve", "port"} <= {check for check, state in found.items() if state == "fail"}
    assert found["roster"] == "warn"


def public_database(home):
    path = home.flower / "state.db"
    path.touch()
    path.chmod(0o644)


@pytest.mark.parametrize(
    ("spoil", "check"),
    [
        (lambda home: (home.keys / "ca.key").chmod(0o644), "keys"),
        (lambda home: (home.certificates / "server.crt").write_text("junk"), "certificates"),
        (lambda home: home.roster_file.write_text("{}"), "roster"),
        (public_database, "state"),
        (lambda home: home.folder.chmod(0o750 | 0o005), "folder"),
    ],
)  # fmt: skip
def test_what_is_wrong_at_the_coordinator_is_named(hub, spoil, check):
    spoil(hub)
    assert states(coordinator_doctor.look(hub))[check] == "fail"


def test_a_certificate_for_another_name_is_named(hub):
    settings = config.read_settings(hub)
    hub.settings_file.write_text(json.dumps({**settings.plain(), "address": "hub.invalid:443"}))
    found = [one for one in coordinator_doctor.look(hub) if one.state == "fail" and one.check == "server.crt"]
    assert "hub.invalid" in found[0].what


def test_an_older_doors_configuration_is_a_warning(hub):
    (door.folder(hub) / "nginx.conf").write_text("old")
    assert any(one.check == "door" and "not this release's" in one.what for one in coordinator_doctor.look(hub))


@pytest.mark.parametrize("text", ["", "hub", ":1", "hub:", "hub:0", "hub:99999", "hub:x", "hub:-1"])
def test_an_address_is_host_and_port(text):
    with pytest.raises(ConfigError) as wrong:
        findings.address(text)
    assert repr(text) in str(wrong.value)
    assert "--" not in str(wrong.value)  # --superlink, --lane and --peer are all addresses
