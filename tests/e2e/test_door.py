"""The door, with nginx before a real SuperLink and a real lane: what answers from outside, what does not, and who says so."""

import json
import shutil
import socket
import ssl
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from client import config as hospital
from client import lane as relays
from client import relay, supernode
from client.relay import RelayHome
from common import wire
from common.errors import LinkLost
from common.lane import NAME
from common.processes import end
from server import door, nodes, setup, superlink
from tests import federation, refusing
from tests.doors import STUDY, Coordinator, activate, exchange_over, node_key, open_lane, relayed, request, status, wait_until
from tests.federation import HOSPITALS
from tests.refusing import announced
from tests.written import refusals

pytestmark = pytest.mark.e2e

NGINX = shutil.which("nginx", path=door.PROGRAM_PATH)


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory, phantom_scans, cohort_cache):
    one = federation.Federation(tmp_path_factory.mktemp("f"), phantom_scans, cache=cohort_cache)
    one.approve(STUDY)
    yield one
    one.close()


@pytest.fixture(scope="module")
def opened(tmp_path_factory, hospitals):
    if NGINX is None:
        pytest.skip("nginx is not installed")
    if not any((place / door.STREAM).exists() for place in door.MODULES):
        pytest.skip("nginx has no stream module: libnginx-mod-stream")
    one = Coordinator(tmp_path_factory.mktemp("d") / "c")
    command = [Path(sys.executable).parent / "motet-coordinator", "door", "--home", one.home.folder]
    nginx = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    one.door_said = nginx.stdout.readline().decode()
    wait_until(lambda: door.running(door.folder(one.home)))
    link = superlink.start(one.home, one.settings)
    try:
        known = replace(hospitals.roster, members=hospitals.roster.members[:1])
        nodes.match(one.home, one.settings, known)
        yield one
    finally:
        end(link)
        end(nginx)
        nginx.stdout.close()


@pytest.fixture(scope="module")
def stranger(tmp_path_factory, hospitals):
    """A hospital that was set up and never enrolled."""
    folder = tmp_path_factory.mktemp("s") / "stranger"
    site = hospital.read_site(hospitals.homes["hosp-a"])
    policy = site.policy.model_dump(exclude={"allowed_studies", "approved_roster", "officers"})
    hospital.create(folder, name="hosp-x", scans=site.scans, clinical=site.clinical, **policy)
    return hospital.Home(folder)


def test_the_door_says_where_it_opens(opened):
    assert opened.settings.address in opened.door_said
    assert "Ctrl-C closes it" in opened.door_said


def test_a_real_supernode_comes_in_and_leaves_by_the_door(opened, hospitals, tmp_path):
    home, told = RelayHome(hospitals.homes["hosp-a"].relay), tmp_path / "supernode.log"
    with told.open("wb") as errors:
        address = opened.settings.address
        child = supernode._start(home, superlink=address, lane=address, ca=opened.ca, errors=errors.fileno())

    def answered(path):
        return f'"POST /v1/fleet/{path} HTTP/1.1" 200' in (opened.home.folder / "superlink.log").read_text()

    try:
        wait_until(
            lambda: "SuperNode ID" in told.read_text() or child.poll() is not None, timeout_s=40
        )  # it knows that it is in
        assert answered("activate-node")
        assert child.poll() is None
    finally:
        end(child)
    wait_until(lambda: answered("deactivate-node"))


@pytest.mark.parametrize(
    "path",
    [
        "/", "/health", "/docs", "/redoc", "/openapi.json", "/metrics", "/favicon.ico", "/v1/fleet", "/v1/fleet/",
        "/v1/control/list-nodes", "/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/pull-messages",
        "/v1/fleet/register-node", "/v1/fleet/unregister-node", "/v1/fleet/get-run/", "/v1/fleet/get-runs", "/V1/FLEET/GET-RUN",
    ],
)  # fmt: skip
def test_nothing_but_what_a_supernode_needs_is_published(opened, path):
    for method in ("GET", "POST"):
        assert status(opened.raw(request(path, method=method))) == 403
        line = opened.said("refused", event="refused", path=path, method=method)
        assert (line["status"], line["reason"], line["client"]) == (403, "not-published", "127.0.0.1")
    assert "forbidden" not in (door.folder(opened.home) / "logs" / "error.log").read_text()  # it stands in refused.log


@pytest.mark.parametrize(
    "path",
    [
        "/v1/fleet/../control/list-nodes", "/v1/control/../fleet/get-run", "/v1/fleet/get-run/../../control/list-nodes",
        "//v1/fleet/get-run", "/v1//fleet/get-run", "/v1/fleet//get-run", "/v1/fleet/./get-run", "/v1/fleet/get%2Drun",
        "/v1/fleet/%2e%2e/control/list-nodes", "/v1/fleet/..%2fcontrol/list-nodes", "/v1/fleet/get-run%00",
        "/v1/fleet/get-run%0a",
        "/v1/fleet/get-run?x=/v1/control/list-nodes", "/v1/fleet/get-run;/../../control/list-nodes", "/v1/fleet/get-run#x",
        "/v1/fleet\\get-run", "http://127.0.0.1/v1/control/list-nodes", "https://hub/docs", "*", "127.0.0.1:80",
    ],
)  # fmt: skip
def test_no_spelling_of_a_path_leads_anywhere_else(opened, path):
    assert status(opened.raw(request(path))) in {400, 403}


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "post", "PRI"])
def test_no_other_method_is_passed_on(opened, method):
    assert status(opened.raw(request("/v1/fleet/get-run", method=method))) in {400, 403, 405}


@pytest.mark.parametrize("host", ["127.0.0.1:1", "localhost", "motet-lane", "metadata", ""])
def test_the_hosts_name_changes_nothing(opened, host):
    assert status(opened.raw(request("/v1/control/list-nodes", host=host))) in {400, 403}
    assert status(opened.raw(request("/v1/fleet/pull-messages", host=host))) in {400, 415}  # the SuperLink's own refusal


HIDDEN = b"POST /v1/control/list-nodes HTTP/1.1\r\nHost: hub\r\nContent-Length: 0\r\n\r\n"
SMUGGLED = {
    "both lengths": b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % (5 + len(HIDDEN)),
    "chunked": b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "odd encoding": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN),
    "signed length": b"Content-Length: +0\r\n\r\n",
    "folded header": b"X: 1\r\n Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
    "space before colon": b"Content-Length : 0\r\n\r\n",
    "old protocol": None,
}


@pytest.mark.parametrize("trick", sorted(SMUGGLED))
def test_no_second_request_hides_in_the_first(opened, trick):
    """Whatever the front reads as one request, what is behind sees as one: the hidden one is answered by the door or never."""
    before = (opened.home.folder / "superlink.log").read_text().count("list-nodes")  # the coordinator's own
    if trick == "old protocol":
        answer = opened.raw(b"POST /v1/fleet/get-run HTTP/1.0\r\nContent-Length: 0\r\n\r\n" + HIDDEN)
    else:
        answer = opened.raw(b"POST /v1/fleet/get-run HTTP/1.1\r\nHost: hub\r\n" + SMUGGLED[trick] + HIDDEN)
    first, *others = [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert first in {400, 401, 403, 501}
    assert set(others) <= {400, 403}
    link_log = (opened.home.folder / "superlink.log").read_text()
    assert link_log.count("list-nodes") == before


def test_neither_http_2_nor_plain_http_nor_junk_is_spoken(opened):
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    assert status(opened.raw(preface)) in {400, 403}
    with pytest.raises(ssl.SSLError, match="no application protocol"):
        opened.raw(preface, alpn=["h2"])
    for sent in (request("/v1/control/list-nodes"), b"\x00" * 64, b"SSH-2.0-x\r\n"):
        with socket.create_connection((opened.host, opened.port), timeout=2) as plain:
            plain.sendall(sent)
            plain.shutdown(socket.SHUT_WR)
            assert b"200" not in plain.recv(64)


def test_a_flood_of_refused_requests_does_not_fill_the_disk(opened):
    """From another address: 600 on one link. Beyond the burst they are 429, and one in a hundred of those is written down."""
    trust = ssl.create_default_context(cafile=str(opened.ca))
    trust.check_hostname = False
    log = door.folder(opened.home) / "logs" / "refused.log"
    before = log.stat().st_size
    with (
        socket.create_connection((opened.host, opened.port), timeout=5, source_address=("127.0.0.9", 0)) as plain,
        trust.wrap_socket(plain) as link,
    ):
        for _ in range(600):
            link.sendall(b"GET /" + b"x" * 3000 + b" HTTP/1.1\r\nHost: hub\r\n\r\n")
            answer = b""
            while not answer.endswith(b"</html>\r\n"):
                answer += link.recv(65536)
    assert status(answer) == 429
    time.sleep(0.2)
    lines = [line for line in log.read_bytes()[before:].splitlines() if b"127.0.0.9" in line]
    assert 200 <= len(lines) < 300
    assert max(map(len, lines)) < 700
    assert b"limiting" not in (log.parent / "error.log").read_bytes()


def test_headers_and_bodies_have_limits(opened):
    assert status(opened.raw(request("/v1/fleet/get-run", headers=["X: " + "x" * 9000]))) == 400
    huge = b"POST /v1/fleet/push-object HTTP/1.1\r\nHost: hub\r\nContent-Length: 17000000\r\n\r\n"
    assert status(opened.raw(huge)) == 413
    assert opened.said("refused", event="refused", status=413)["reason"] == "too-large"


def test_a_forged_address_is_not_believed(opened):
    opened.raw(request("/docs?forged", headers=["X-Forwarded-For: 203.0.113.9", "X-Real-IP: 203.0.113.9"]))
    assert opened.said("refused", event="refused", path="/docs?forged")["client"] == "127.0.0.1"


def test_a_strangers_node_key_and_a_bad_signature_are_refused(opened, hospitals, stranger):
    assert activate(opened, node_key(RelayHome(stranger.relay))).status_code == 412
    assert opened.said("refused", event="refused", reason="node-unknown")["path"] == "/v1/fleet/activate-node"
    late = activate(opened, node_key(RelayHome(hospitals.homes["hosp-a"].relay)), signed_at=datetime(2020, 1, 1, tzinfo=UTC))
    assert late.status_code == 401
    assert opened.said("refused", event="refused", reason="node-signature")["path"] == "/v1/fleet/activate-node"
    assert "412" in (link_log := (opened.home.folder / "superlink.log").read_text())
    assert "401" in link_log


def test_real_vaults_agree_on_keys_over_the_door_and_replays_are_refused_on_both_sides(opened, hospitals, tmp_path):
    """Set-up over the lane; then an old request to a vault, an old reply to the coordinator, a reply by a stranger."""
    run, replaying, first = "door", {}, {}

    def ask(name, data, answer):
        if name in replaying:
            return replaying[name](data)
        reply = answer(data)
        first.setdefault(name, reply)
        return reply

    with relayed(opened, hospitals, run=run, ask=ask) as errors, open_lane(opened, hospitals, run=run) as (served, _):
        wait_until(lambda: served.present() == frozenset(HOSPITALS))
        exchange = exchange_over(served, hospitals, tmp_path / "run", run=run)
        agreed = setup.set_up(exchange)
        assert agreed.members == HOSPITALS
        old = SimpleNamespace(run=run, roster=hospitals.roster, key=hospitals.key, sealed=agreed.sealed)
        bodies = {
            number: wire.peek(refusing.envelope(old, announced(old, number, study=STUDY.hash()))).body for number in (1, 2)
        }

        def asked(number, name, *, part):
            """Ask one hospital for an upload; return whether there is one, and the code in the coordinator's journal."""
            replies = exchange.ask("announce", {name: bodies[number]}, kind="upload", part=part)
            last = list(exchange.journal.events())[-1]
            return set(replies), last["codes"].get(name) if last["type"] == "missing" else None

        assert asked(2, "hosp-a", part="newer") == ({"hosp-a"}, None)
        assert asked(1, "hosp-a", part="older") == (set(), "E-ROUND")  # as whoever recorded it would send it
        assert refusals(hospitals) == ["E-ROUND"]
        replaying["hosp-b"] = lambda _data: first["hosp-b"]
        assert asked(2, "hosp-b", part="old") == (set(), "E-ENVELOPE")
        replaying["hosp-c"] = lambda _data: wire.seal(
            wire.Envelope(kind="upload", sender="hosp-c", recipient="coordinator", run=run, body={}), key=refusing.STRANGER
        )
        assert asked(2, "hosp-c", part="strange") == (set(), "E-ENVELOPE")
    assert errors == []
    line = opened.said("lane", event="lane-closed")
    assert line["client"] == "127.0.0.1"
    assert min(line["received"], line["sent"]) > 0


def test_a_strangers_certificate_is_refused_by_the_lane(opened, hospitals, stranger, capfd):
    """Also one that bears a hospital's name: the roster names certificates, not names."""
    with open_lane(opened, hospitals, run="closed") as (served, heard):
        before = len((door.folder(opened.home) / "logs" / "lane.log").read_text().splitlines())
        for name in ("hosp-x", "hosp-a"):
            shutil.rmtree(stranger.relay)
            with pytest.raises(LinkLost):
                relays.carry(
                    opened.where(relay.create(stranger.relay, name=name, socket=stranger.folder / "s")),
                    run="closed",
                    patience_s=1,
                    ask=lambda data: data,
                )
        assert heard == []
        assert served.present() == frozenset()
        until = time.monotonic() + 5
        while len(lines := (door.folder(opened.home) / "logs" / "lane.log").read_text().splitlines()) < before + 2:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert "CERTIFICATE_VERIFY_FAILED" in capfd.readouterr().err  # gRPC's own line, on the lane's side
        for line in map(json.loads, lines[before:]):
            assert (line["event"], line["client"]) == ("lane-closed", "127.0.0.1")


def test_a_relay_without_a_run_finds_the_lane_closed(opened, hospitals):
    with pytest.raises(LinkLost):
        relays.carry(opened.where(RelayHome(hospitals.homes["hosp-a"].relay)), run="none", patience_s=1, ask=lambda data: data)
    assert opened.said("lane", event="lane-not-open")["status"] == 502


def test_only_the_lane_has_the_lanes_certificate_check(opened, hospitals):
    """Whoever asks for the lane without a certificate gets none of the fleet interface, and the other way round."""
    with open_lane(opened, hospitals, run="bare"):
        answer = opened.raw(request("/v1/fleet/get-run"), server_name=NAME)
    assert not answer.startswith(b"HTTP/1.1 2")
    assert b"403" not in answer[:20]
