"""Claims about receiving and pulling, pynetdicom on both sides: what a PACS sends arrives whole, and strangers send nothing."""

import datetime as dt
import gc
import re
import socket
import ssl
import time
import warnings
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pydicom
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, RLELossless

from client.imaging.guard import Guard
from client.imaging.scan import read_scans
from client.inside import Scan
from client.sources import listen, network, retrieve
from client.sources.inbox import Inbox, Tally
from client.sources.listen import TITLES_MOST, Store, _shown, listening
from client.sources.network import Tls
from client.sources.wanted import MODALITIES, Wanted
from client.sources.web import Server, fetch
from common.errors import ConfigError, PortInUse, PullFailed
from tests.pacs import OURS, TITLE, pacs, send, web
from tests.phantoms import Ellipsoid, volume, write_series

pytestmark = [  # pynetdicom leaves the socket of a refused or broken connection to the collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
IMAGE = volume(Ellipsoid(semi_axes_mm=(6, 4, 2)), shape=(6, 32, 32), body_radius_mm=14)
WHOLE = Wanted(studies=(), dates="20260101-20261231", modalities=MODALITIES)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    """Two patients, a CT series and a segmentation each, and one object that nobody reads."""
    found = []
    for number, name in enumerate(("P-1", "P-2")):
        paths = write_series(
            tmp_path_factory.mktemp(name),
            patient_id=name,
            voxels_hu=IMAGE.voxels,
            spacing_mm=(1, 1, 1),
            region=IMAGE.region,
            planted={"StudyDate": f"2026010{number + 1}"},
        )
        found += [pydicom.dcmread(path) for path in paths]
    return found


@pytest.fixture(autouse=True, scope="module")
def collected() -> Iterator[None]:
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(Inbox(tmp_path / "inbox", free_bytes_least=0))


@pytest.fixture
def port(store: Store) -> Iterator[int]:
    with listening(store, title=OURS, allowed=[TITLE], host="127.0.0.1", port=0, tls=None) as bound:
        yield bound


def stored(store: Store) -> list[Path]:
    return [path for path in store.inbox.scans.rglob("*") if path.is_file()]


def test_what_a_pacs_sends_arrives_whole_and_is_read(store: Store, port: int, objects: list[Dataset]) -> None:
    assert send(objects, port=port) == [0] * len(objects)
    assert send(objects[:3], port=port) == [0] * 3  # again is fine
    assert store.tally.counts == {"STORED": 14, "AGAIN": 3}
    with Guard() as guard:
        scans = [
            one
            for one in read_scans(store.inbox.scans, pseudonym=lambda _, raw: raw, reader=guard, modality="CT")
            if isinstance(one, Scan)
        ]
    assert sorted(one.patient for one in scans) == ["P-1", "P-2"]
    assert all(one.region_planes is not None and len(one.pixels) == 6 for one in scans)


def test_pixels_arrive_in_the_bytes_in_which_they_were_sent(store: Store, port: int, objects: list[Dataset]) -> None:
    packed = []
    for syntax in (RLELossless, JPEG2000Lossless):
        one = pydicom.dcmread(pydicom.filebase.DicomBytesIO(_bytes(objects[0])))
        one.compress(syntax, generate_instance_uid=False)
        packed.append(one)
    assert send(packed, port=port) == [0, 0]
    assert {pydicom.dcmread(path).PixelData for path in stored(store)} == {one.PixelData for one in packed}


def _bytes(one: Dataset) -> bytes:
    buffer = pydicom.filebase.DicomBytesIO()
    pydicom.dcmwrite(buffer, one, enforce_file_format=True)
    return bytes(buffer.getvalue())


@pytest.mark.parametrize(("ours", "called"), [("STRANGER", OURS), (TITLE, "SOMEBODY"), ("pacs", OURS)])
def test_whoever_is_not_on_the_list_sends_nothing(
    store: Store, port: int, objects: list[Dataset], ours: str, called: str
) -> None:
    assert send(objects, port=port, ours=ours, called=called) == []
    assert stored(store) == []
    assert store.tally.counts == {"REJECTED": 1}


def test_titles_of_rejected_callers_are_logged_once_each_and_steer_no_log(
    store: Store, port: int, objects: list[Dataset], caplog: pytest.LogCaptureFixture
) -> None:
    for title in ("STRANGER", "STRANGER", "A B$%s{x}", "--"):
        assert send(objects, port=port, ours=title) == []
    assert re.fullmatch(r"[A-Za-z0-9_.-]{1,16}", _shown("A\x1b[2J\n" * 9))
    assert store.tally.counts == {"REJECTED": 4}
    assert [record.aet for record in caplog.records if record.name == "motet.receive"] == ["STRANGER", "A-B--s-x-", "unnamed"]
    store._strangers.update(str(number) for number in range(TITLES_MOST - 3))
    assert send(objects, port=port, ours="ONE-MORE") == []
    assert len(store._strangers) == TITLES_MOST
    assert "ONE-MORE" not in caplog.text


def test_other_kinds_of_objects_are_not_negotiated(store: Store, port: int, objects: list[Dataset]) -> None:
    other = pydicom.dcmread(pydicom.filebase.DicomBytesIO(_bytes(objects[0])))
    other.SOPClassUID = other.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"  # secondary capture
    assert send([other], port=port) in ([-1], [])
    assert stored(store) == []


def test_a_full_disk_is_told_to_the_sender(tmp_path: Path, objects: list[Dataset]) -> None:
    full = Store(Inbox(tmp_path / "inbox", free_bytes_least=1 << 60))
    with listening(full, title=OURS, allowed=[TITLE], host="127.0.0.1", port=0, tls=None) as port:
        assert send(objects[:1], port=port) == [0xA700]
    assert full.tally.counts == {"DISK_FULL": 1}


def test_an_object_above_the_cap_is_cut_off(
    store: Store, port: int, objects: list[Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen, "OBJECT_BYTES_MOST", 0)  # and the megabyte that PDUs may add
    large = pydicom.dcmread(pydicom.filebase.DicomBytesIO(_bytes(objects[0])))
    large.Rows, large.Columns, large.PixelData = 1200, 1200, bytes(1200 * 1200 * 2)
    assert send([large], port=port) in ([-1], [])
    assert stored(store) == []
    assert store.tally.counts["TOO_LARGE"] >= 1
    monkeypatch.undo()
    assert send(objects[:1], port=port) == [0]


def test_noise_on_the_port_harms_nobody(store: Store, port: int, objects: list[Dataset]) -> None:
    for noise in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x01\x00\xff\xff\xff\xff" + bytes(64), bytes(1000)):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as line:
            line.sendall(noise)
    assert send(objects[:2], port=port) == [0, 0]
    assert len(stored(store)) == 2


def test_nobody_or_no_title_is_an_error(store: Store) -> None:
    for title, allowed in ((OURS, []), ("", [TITLE]), ("A" * 17, [TITLE]), (OURS, ["back\\slash"])):
        with pytest.raises(ConfigError), listening(store, title=title, allowed=allowed, host="127.0.0.1", port=0, tls=None):
            pass


def test_a_port_in_use_says_so(store: Store, port: int) -> None:
    with pytest.raises(PortInUse), listening(store, title=OURS, allowed=[TITLE], host="127.0.0.1", port=port, tls=None):
        pass


def test_c_get_brings_every_series_that_is_wanted(store: Store, objects: list[Dataset]) -> None:
    with pacs(objects) as at:
        peer = retrieve.Peer(host="127.0.0.1", port=at, title=TITLE, ours=OURS, tls=None)
        retrieve.get(peer, wanted=WHOLE, store=store)
        assert store.tally.counts == {"STORED": 14, "SERIES": 4}
        only = Wanted(studies=(), dates="20260102-20260102", modalities=("CT",))
        retrieve.get(peer, wanted=only, store=store)
        assert store.tally.counts == {"STORED": 14, "AGAIN": 6, "SERIES": 5}
        retrieve.get(peer, wanted=Wanted(studies=("1.2.3",), dates="", modalities=("CT",)), store=store)
    assert store.tally.counts == {"STORED": 14, "AGAIN": 6, "SERIES": 5}


def test_c_move_brings_every_series_that_is_wanted(store: Store, objects: list[Dataset]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        ours = free.getsockname()[1]
    with pacs(objects, destination=("127.0.0.1", ours)) as at:
        peer = retrieve.Peer(host="127.0.0.1", port=at, title=TITLE, ours=OURS, tls=None)
        studies = (str(objects[0].StudyInstanceUID),)
        retrieve.move(
            peer, wanted=Wanted(studies=studies, dates="", modalities=MODALITIES), store=store, host="127.0.0.1", port=ours
        )
    assert store.tally.counts == {"STORED": 7, "SERIES": 2}


def test_a_pacs_that_is_not_there_says_so(store: Store) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = free.getsockname()[1]
    with pytest.raises(PullFailed):
        retrieve.get(retrieve.Peer(host="127.0.0.1", port=nobody, title=TITLE, ours=OURS, tls=None), wanted=WHOLE, store=store)


def test_dicomweb_brings_every_series_that_is_wanted(store: Store, objects: list[Dataset]) -> None:
    tally = Tally.empty()
    with web(objects, user="Bearer abc") as root:
        fetch(Server(root=root, token="abc"), wanted=WHOLE, inbox=store.inbox, tally=tally)
        assert tally.counts == {"STORED": 14, "SERIES": 4}
        with pytest.raises(PullFailed, match="401"):
            fetch(Server(root=root), wanted=WHOLE, inbox=store.inbox, tally=tally)
    assert len(stored(store)) == 14


def test_a_dicomweb_answer_that_ends_early_costs_its_series(store: Store, objects: list[Dataset]) -> None:
    tally = Tally.empty()
    with web(objects, cut=True) as root:
        fetch(Server(root=root), wanted=WHOLE, inbox=store.inbox, tally=tally)
    assert tally.counts["FAILED_SERIES"] == 4
    assert len(stored(store)) == tally.counts.get("STORED", 0)
    for path in stored(store):
        assert pydicom.dcmread(path).PixelData


@pytest.mark.parametrize("root", ["http://pacs.example.org/dicom-web", "ftp://localhost/", "nonsense", "http://[::1"])
def test_scans_travel_over_https_or_loopback(store: Store, root: str) -> None:
    with pytest.raises(ConfigError):
        fetch(Server(root=root), wanted=WHOLE, inbox=store.inbox, tally=Tally.empty())


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """One self-signed certificate for 127.0.0.1, which both sides show and trust."""
    folder, key = tmp_path_factory.mktemp("tls"), ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "a.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "a.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return Tls(certificate=folder / "a.crt", key=folder / "a.key", ca=folder / "a.crt")


def test_over_tls_only_who_shows_a_certificate_sends(
    store: Store, tls: Tls, objects: list[Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "HANDSHAKE_S", 1.0)
    with listening(store, title=OURS, allowed=[TITLE], host="127.0.0.1", port=0, tls=tls) as port:
        nobody = ssl.create_default_context(cafile=str(tls.ca))
        assert send(objects[:1], port=port, tls_args=(nobody, "127.0.0.1")) == []
        assert send(objects[:1], port=port) == []
        assert stored(store) == []
        with socket.create_connection(("127.0.0.1", port)):  # says nothing: the handshake is given up
            began = time.monotonic()  # others wait for at most the handshake's second
            assert send(objects[:2], port=port, tls_args=(network.context(tls, serving=False), "127.0.0.1")) == [0, 0]
            assert time.monotonic() - began < 10
    assert len(stored(store)) == 2


def test_a_pull_over_tls_checks_the_pacs(store: Store, tls: Tls, objects: list[Dataset]) -> None:
    with pacs(objects[:7], ssl_context=network.context(tls, serving=True)) as at:
        retrieve.get(retrieve.Peer(host="127.0.0.1", port=at, title=TITLE, ours=OURS, tls=tls), wanted=WHOLE, store=store)
        with pytest.raises(PullFailed):
            retrieve.get(retrieve.Peer(host="127.0.0.1", port=at, title=TITLE, ours=OURS, tls=None), wanted=WHOLE, store=store)
    assert store.tally.counts == {"STORED": 7, "SERIES": 2}
