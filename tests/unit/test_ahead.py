"""Claims about reading ahead: the same answers in the same order, whatever is asked, and nothing known to be bad is opened."""

import threading
from pathlib import Path
from typing import Any

import pytest

from client.imaging.ahead import Ahead
from client.imaging.found import Reason
from client.quarantine import Quarantine


class Recording:
    """A reader of its own kind, no stand-in for the guard: what is claimed of order and threads holds over any reader.

    It answers each file with its name, says what it was asked, and fails where two threads use it at once.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, bool]] = []
        self.busy = threading.Lock()

    def read(self, path: Path, *, with_pixels: bool) -> Any:
        assert self.busy.acquire(blocking=False)
        try:
            self.asked.append((path.name, with_pixels))
            if path.name == "broken":
                raise OSError("gone")
            return (path.name, with_pixels)
        finally:
            self.busy.release()


PATHS = [Path(name) for name in "abcdef"]


@pytest.mark.parametrize("asked", ["abcdef", "abc", "fedcba", "aabbcc", "acebdf", "", "xyz"])
@pytest.mark.parametrize("turn", [0, 2, 9])
@pytest.mark.parametrize("readers", [1, 2, 3])
def test_answers_are_those_of_the_reader_itself(asked: str, turn: int, readers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.imaging.ahead.FEW", 1)
    with Ahead(*(Recording() for _ in range(readers))) as reader:
        reader.expect(PATHS)
        for at, name in enumerate(asked):
            assert reader.read(Path(name), with_pixels=at < turn) == (name, at < turn)


def test_files_in_the_order_that_was_said_are_read_once() -> None:
    one, other = Recording(), Recording()
    many = [Path(str(number)) for number in range(100)]
    with Ahead(one, other) as reader:
        reader.expect(many)
        for path in many:
            reader.read(path, with_pixels=True)
    assert sorted(int(name) for name, _ in one.asked + other.asked) == list(range(100))


def test_a_small_folder_starts_one_reader_only() -> None:
    one, other = Recording(), Recording()
    with Ahead(one, other) as reader:
        reader.expect(PATHS)
        for path in PATHS:
            reader.read(path, with_pixels=True)
    assert ([name for name, _ in one.asked], other.asked) == (list("abcdef"), [])


def test_a_reader_that_fails_fails_where_its_file_is_asked_for() -> None:
    with Ahead(Recording()) as reader:
        reader.expect([Path("a"), Path("broken"), Path("b")])
        assert reader.read(Path("a"), with_pixels=True) == ("a", True)
        with pytest.raises(OSError, match="gone"):
            reader.read(Path("broken"), with_pixels=True)
        assert reader.read(Path("b"), with_pixels=True) == ("b", True)


def test_what_is_known_to_be_bad_is_not_read_ahead(tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    paths = [scans / name for name in "abc"]
    for path in paths:
        path.write_text("x")
    store = Quarantine(tmp_path / "q.sqlite", clock=lambda: 1)

    class Second(Recording):
        def read(self, path: Path, *, with_pixels: bool) -> Any:
            super().read(path, with_pixels=with_pixels)
            return Reason.NOT_DICOM if path.name == "b" else Reason.LINK

    asked = []
    for _ in range(2):
        inner = Second()
        with Ahead(inner) as ahead:
            reading = store.begin(root=scans, recipe="r", code="1", pseudonym=lambda kind, raw: f"{kind}{raw}")
            reader = reading.through(ahead)
            reader.expect(paths)
            answers = [reader.read(path, with_pixels=True) for path in paths]
            reading.end(usable=0)
        assert answers == [Reason.LINK, Reason.NOT_DICOM, Reason.LINK]
        asked.append("".join(name for name, _ in inner.asked))
    assert asked == ["abc", "ac"]
