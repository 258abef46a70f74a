"""Claims about hostile files by the thousand: the reader survives, each outcome has a code, memory and time stay bounded."""

from pathlib import Path

from client.imaging.found import Reason
from client.imaging.guard import Guard
from tests import fuzzing

CASES = 600


def test_the_seeds_are_all_read(tmp_path: Path) -> None:
    with Guard() as guard:
        for at, data in enumerate(fuzzing.seeds(tmp_path)):
            (tmp_path / "seed.dcm").write_bytes(data)
            assert not isinstance(guard.read(tmp_path / "seed.dcm", with_pixels=True), Reason), at


def test_mutated_files_cost_themselves_only(tmp_path: Path) -> None:
    found = fuzzing.fuzz(tmp_path, count=CASES, seed=7)
    assert (found.cases, found.crashes) == (CASES, 0)
    assert found.outcomes["Slice"] > CASES / 50  # some are still whole
    assert len(found.outcomes) > 10  # and many things break
    assert found.child_mib < fuzzing.LIMITS.memory_bytes / (1 << 20)
    assert found.slowest_s < fuzzing.LIMITS.wall_s + 5  # what the limit cuts off, and the start of another child
