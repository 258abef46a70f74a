"""Run inside the network of deploy/pacs: objects go to both PACS and come back in every way; prints what came, as JSON.

python -m tests.pacs_round SERIES FOLDER
"""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pydicom

from deploy.pacs.run import ORTHANC, ORTHANC_DICOM, OURS, OURS_DICOM, PASSWORD, QR, QR_DICOM, USER, WEB
from tests.pacs import send

MOTET = Path(sys.executable).parent / "motet-hospital"


def motet(*arguments: str) -> dict[str, object]:
    done = subprocess.run([MOTET, *arguments, "--json"], capture_output=True, text=True, timeout=120, check=False)
    counts = json.loads(done.stdout[done.stdout.index("{") :])["counts"] if "{" in done.stdout else {}
    return {"code": done.returncode, "counts": counts, "error": done.stderr[-300:]}


def main() -> None:
    series, folder = Path(sys.argv[1]), Path(sys.argv[2])
    objects = [pydicom.dcmread(path) for path in sorted(series.glob("*.dcm"))]
    studies = folder / "studies.txt"
    studies.write_text(f"{objects[0].StudyInstanceUID}\n")
    secret = folder / "secret"
    secret.touch(mode=0o600)
    secret.write_text(f"{USER}:{PASSWORD}\n")
    told: dict[str, object] = {}
    for name, title, port in (("orthanc", ORTHANC, ORTHANC_DICOM), ("qr", QR, QR_DICOM)):
        told[f"{name} sent"] = sorted(set(send(objects, port=port, ours=OURS, called=title)))
        common = ["--aet", OURS, "--peer", f"127.0.0.1:{port}", "--peer-aet", title, "--plain"]
        for way in ("get", "move"):
            listening = ["--port", str(OURS_DICOM)] if way == "move" else []
            inbox = ["--inbox", str(folder / f"{name}-{way}")]
            told[f"{name} {way}"] = motet("pull", way, *inbox, *common, *listening, "--studies", str(studies))
        told[f"{name} dates"] = motet(
            "pull", "get", "--inbox", str(folder / f"{name}-get"), *common, "--dates", "20260101-20260131"
        )
    web = ["pull", "web", "--root", WEB, "--inbox", str(folder / "orthanc-web"), "--studies", str(studies)]
    told["orthanc web"] = motet(*web, "--credentials", str(secret))
    told["orthanc web stranger"] = motet(*web)
    told["receive"] = pushed(objects, folder)
    print(json.dumps(told))


def pushed(objects: list[pydicom.Dataset], folder: Path) -> object:
    """Let Orthanc send to `motet-hospital receive`, the way a PACS forwards by a rule."""
    import httpx

    command = [MOTET, "receive", "--inbox", str(folder / "pushed"), "--aet", OURS, "--allow", ORTHANC, "--plain"]
    receiver = subprocess.Popen([*command, "--port", str(OURS_DICOM)], stdout=subprocess.PIPE, text=True)
    assert receiver.stdout is not None
    assert "receiving" in receiver.stdout.readline()
    root = WEB.removesuffix("/dicom-web")
    with httpx.Client(base_url=root, auth=(USER, PASSWORD), timeout=60, trust_env=False) as orthanc:
        studies = orthanc.get("/studies").json()
        answer = orthanc.post("/modalities/motet/store", json={"Resources": studies, "Synchronous": True})
    receiver.send_signal(signal.SIGTERM)
    said = receiver.communicate(timeout=30)[0]
    return {
        "http": answer.status_code,
        "stored": int((re.search(r"(\d+) STORED", said) or ["", "0"])[1]),
        "code": receiver.returncode,
    }


if __name__ == "__main__":
    main()
