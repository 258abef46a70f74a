"""Starts Debian's Orthanc and dcmqrscp in a network namespace that has a loopback and nothing else, and runs a command there.

    apt-get install --no-install-recommends orthanc orthanc-dicomweb dcmtk    (never orthanc-gdcm: it crashes on /frames)
    python -m deploy.pacs.run FOLDER COMMAND ...

Both programs listen on every address and cannot be told otherwise; hence the namespace (Linux, root or user namespaces).
FOLDER gets their configuration and their data. Orthanc: DICOM 14242, DICOMweb http://127.0.0.1:18042/dicom-web, user `motet`
with password `test-only`, AE title ORTHANC. dcmqrscp: 14104, AE title QR. Both know MOTET at 127.0.0.1:11119.
"""

import contextlib
import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.processes import end

ORTHANC_DICOM, ORTHANC_HTTP, QR_DICOM, OURS_DICOM = 14242, 18042, 14104, 11119
ORTHANC, QR, OURS = "ORTHANC", "QR", "MOTET"
WEB = f"http://127.0.0.1:{ORTHANC_HTTP}/dicom-web"
USER, PASSWORD = "motet", "test-only"
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
READY_S = 30.0
SIOCSIFFLAGS, IFF_UP, IFF_RUNNING = 0x8914, 0x1, 0x40  # <linux/sockios.h>, <linux/if.h>
INSIDE = "--inside"


def missing() -> str | None:
    """Return why they cannot be started here, None where they can."""
    for program in ("Orthanc", "dcmqrscp", "unshare"):
        if shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
            return f"{program} is not installed (apt-get install --no-install-recommends orthanc orthanc-dicomweb dcmtk)"
    if not PLUGIN.exists():
        return "orthanc-dicomweb is not installed"
    tried = subprocess.run([*_unshare(), "true"], capture_output=True, check=False)
    return None if tried.returncode == 0 else "network namespaces are not allowed here"


def run(folder: Path, command: Sequence[str], *, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run `command` beside both programs; return how it ended, with its output."""
    inside = [*_unshare(), sys.executable, "-m", "deploy.pacs.run", INSIDE, str(folder), *command]
    return subprocess.run(inside, capture_output=True, text=True, timeout=timeout_s, check=False)


def _unshare() -> list[str]:
    return ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--net", "--map-root-user"]


@contextlib.contextmanager
def _started(folder: Path) -> Iterator[None]:
    """Start both, wait until they answer, end both."""
    if [name for _, name in socket.if_nameindex() if name != "lo"]:
        raise SystemExit("deploy.pacs.run: this network has more than a loopback; start it without --inside")
    _loopback_up()
    folder.mkdir(parents=True, exist_ok=True)
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    running = []
    with (folder / "pacs.log").open("ab") as log:
        try:
            for program, settings, port in (
                ("Orthanc", _orthanc(folder), ORTHANC_DICOM),
                ("dcmqrscp", _dcmqrscp(folder), QR_DICOM),
            ):
                arguments = [str(settings)] if program == "Orthanc" else ["-c", str(settings)]
                running.append(
                    subprocess.Popen([str(shutil.which(program, path=path)), *arguments], stdout=log, stderr=log, cwd=folder)
                )
                _await(port)
            _await(ORTHANC_HTTP)
            yield
        finally:
            for process in running:
                end(process)


def _orthanc(folder: Path) -> Path:
    """Write Orthanc's configuration; plugins are named one by one, so that nothing else is loaded."""
    settings = {
        "Name": "test",
        "StorageDirectory": str(folder / "orthanc"),
        "IndexDirectory": str(folder / "orthanc"),
        "Plugins": [str(PLUGIN)],
        "HttpPort": ORTHANC_HTTP,
        "DicomPort": ORTHANC_DICOM,
        "DicomAet": ORTHANC,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: PASSWORD},
        **{f"DicomAlwaysAllow{what}": True for what in ("Echo", "Store", "Find", "Get", "Move")},
        "DicomModalities": {"motet": [OURS, "127.0.0.1", OURS_DICOM]},
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(settings, indent=2))
    return path


def _dcmqrscp(folder: Path) -> Path:
    data = folder / "qr"
    data.mkdir(exist_ok=True)
    path = folder / "dcmqrscp.cfg"
    path.write_text(f"""\
NetworkTCPPort  = {QR_DICOM}
MaxPDUSize      = 16384
MaxAssociations = 8
HostTable BEGIN
motet = ({OURS}, 127.0.0.1, {OURS_DICOM})
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
{QR} {data} RW (200, 1024mb) ANY
AETable END
""")
    return path


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        fcntl.ioctl(line, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", IFF_UP | IFF_RUNNING))


def _await(port: int) -> None:
    until = time.monotonic() + READY_S
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise SystemExit(f"deploy.pacs.run: nothing answers on port {port}; see pacs.log")


def main() -> None:
    """Entry point."""
    arguments = sys.argv[1:]
    if arguments[:1] != [INSIDE]:
        if len(arguments) < 2:
            raise SystemExit(__doc__)
        if reason := missing():
            raise SystemExit(f"deploy.pacs.run: {reason}")
        os.execvp("unshare", [*_unshare(), sys.executable, "-m", "deploy.pacs.run", INSIDE, *arguments])
    with _started(Path(arguments[1]).absolute()):
        raise SystemExit(subprocess.run(arguments[2:], check=False).returncode)


if __name__ == "__main__":
    main()
