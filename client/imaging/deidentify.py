"""A pseudonymised copy of an image for use inside the hospital: pseudonyms and dates from the site's key, which stays here."""

import json
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from client.imaging.found import Reason
from client.imaging.guard import IDENTIFIERS, REWRITE, Guard

SHIFT_DAYS = 365


def deidentified(path: Path, *, reader: Guard, pseudonym: Callable[[str, str], str]) -> tuple[str, str, bytes] | Reason:
    """Return the patient's and the instance's pseudonym and the new file, or why there is none.

    The patient's pseudonym is the one of the cohort: HMAC under the site's key, the same in every study, another at every
    hospital. UIDs become 2.25. and 128 bits of HMAC; dates move 1 to 365 days back, each patient by a number of days of its
    own. What is kept is in client/imaging/allowed.py. A binary segmentation goes with its images, a structure set gets no copy.
    What may have text burned in is refused, and so is a radiograph that does not say that it has none: plates and markers are
    exposed with the patient. Never raises for anything that a file may hold. Source: PS3.15 annex E.
    """
    found = reader.ask(path, kind=IDENTIFIERS)
    if isinstance(found, Reason):
        return found
    try:
        named = _named(found[0]["identifiers"], pseudonym=pseudonym)
    except (KeyError, TypeError, ValueError, AttributeError):
        return Reason.CRASHED
    made = reader.ask(path, kind=REWRITE, beside=json.dumps(named).encode())
    if isinstance(made, Reason):
        return made
    head, arrays = made
    if "file" not in arrays or not isinstance(head.get("instance"), str) or not head["instance"].replace(".", "").isdigit():
        return Reason.CRASHED
    return named["patient"], head["instance"], arrays["file"].tobytes()


def _named(found: dict[str, Any], *, pseudonym: Callable[[str, str], str]) -> dict[str, Any]:
    """Return the pseudonyms of what the child found; it said so, and may lie: they are of texts, and nothing else."""
    patient = str(found["patient"])
    back = timedelta(days=1 + int(pseudonym("date shift", patient), 16) % SHIFT_DAYS)
    return {
        "patient": pseudonym("patient", patient),
        "uids": {str(uid): f"2.25.{int(pseudonym('uid', str(uid)), 16)}" for uid in found["uids"]},
        "dates": {str(day): _shifted(str(day), back=back) for day in found["dates"]},
    }


def _shifted(text: str, *, back: timedelta) -> str:
    """Return an earlier day, "" for what is no date."""
    try:
        return (date(int(text[:4]), int(text[4:6]), int(text[6:8])) - back).strftime("%Y%m%d") if len(text) == 8 else ""
    except (ValueError, OverflowError):
        return ""
