"""Claims about a child that runs an attacker's code: with the descriptors that it has, whatever it answers costs one file."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from client.imaging.found import Reason, Slice
from client.imaging.guard import Guard
from client.imaging.limits import Limits
from common.errors import InternalError
from tests.unit.test_answers import GOOD

CHILD = """#!{python}
import os, struct
os.write(1, b"+")
while len(os.read(0, 17)) == 17:
    answer = open({answer!r}, "rb").read()
    os.write(1, struct.pack(">I", len(answer)) + answer)
"""
MIB = 1 << 20
PLAIN = {**GOOD, "kind": "slice", "shape": [4, 4], "arrays": {"pixels": ["float32", [4, 4]]}}


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A guard whose child answers what it is told to, whatever it is asked."""
    child, answer, file = (tmp_path / name for name in ("child", "answer", "file.dcm"))
    child.write_text(CHILD.format(python=sys.executable, answer=str(answer)))
    child.chmod(0o700)
    file.write_bytes(b"some scan")
    monkeypatch.setattr(sys, "executable", str(child))

    def told(head: dict[str, Any]) -> Any:
        answer.write_text(json.dumps(head))
        return guard.read(file, with_pixels=True)

    with Guard(limits=Limits(wall_s=30, shared_bytes=64 * MIB, file_bytes=MIB)) as guard:
        yield guard, told


def opened() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_an_honest_answer_is_read(hostile) -> None:
    guard, told = hostile
    assert isinstance(told(PLAIN), Slice)
    assert guard.pid is not None


@pytest.mark.parametrize(
    "announced",
    [
        ["int16", [4, 4], 0.5, 0.0],
        ["int16", [4, 4], "slope", 0.0],
        ["int16", [4, 4], 1.0],
        ["int16", [4, 4], 1.0, 0.0, 0.0],
        ["float32", [1] * 100],
        ["float32", [999_999_999] * 50_000],
        ["float32", [0, 1 << 62, 1 << 62]],
        ["float32", [-4, -4]],
        ["float32", [64 * MIB]],
    ],
)
def test_a_lie_about_arrays_costs_its_file_and_its_child_and_leaves_nothing_open(hostile, announced: list[Any]) -> None:
    guard, told = hostile
    told(PLAIN)
    before = opened()
    first = guard.pid
    assert told({**PLAIN, "arrays": {"pixels": announced}}) == Reason.CRASHED
    assert guard.pid is None
    assert not Path(f"/proc/{first}").exists()
    assert isinstance(told(PLAIN), Slice)
    assert opened() <= before


@pytest.mark.parametrize(
    "head",
    [
        {
            "kind": "seg",
            "shape": [5, 1 << 13, 1 << 13],
            "arrays": {"bits": ["uint8", [5 << 23]], "positions_mm": ["float64", [5, 3]]},
        },
        {
            "kind": "frames",
            "shape": [5000, 1, 1],
            "arrays": {"placed": ["float64", [5000, 11]], "phase": ["float64", [5000, 0]], "pixels": ["float32", [5000, 1, 1]]},
        },
        {"kind": "slice", "shape": [4097, 4096], "arrays": {"pixels": ["uint8", [4097, 4096]]}},
        {"kind": "projection", "shape": [4097, 4096], "arrays": {"pixels": ["uint8", [4097, 4096]]}},
    ],
    ids=lambda head: head["kind"],
)
def test_more_than_a_file_may_hold_is_not_believed(hostile, head: dict[str, Any]) -> None:
    _, told = hostile
    assert told({**PLAIN, **head}) == Reason.CRASHED


def test_a_child_that_cannot_be_started_leaves_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file.dcm"
    file.write_bytes(b"some scan")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "absent"))
    before = opened()
    with Guard() as guard:
        for _ in range(3):
            with pytest.raises(InternalError):
                guard.read(file, with_pixels=True)
        assert opened() <= before


def test_the_child_has_its_pipes_and_its_memory_and_nothing_else_open(guard: Guard, tmp_path: Path) -> None:
    file = tmp_path / "file.dcm"
    file.write_bytes(b"some scan")
    with Guard() as other, file.open("rb") as ours:
        for one in (guard, other):
            one.read(file, with_pixels=True)
        for one in (guard, other):
            links = {str(path.readlink()).split(":[")[0] for path in Path(f"/proc/{one.pid}/fd").iterdir()}
            memory = {f"/memfd:motet-{name} (deleted)" for name in ("scratch", "exchange")}
            assert links == {"/dev/null", "pipe", *memory}
        assert not ours.closed
