"""What several verified bundles say together: one given twice, hospitals of the roster without one, rosters that differ."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.audit.verify import Verdict
from common.errors import MotetError


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One bundle that was given: its path, whose it says it is (None where it cannot be read), and what was found."""

    path: Path
    hospital: str | None
    result: Verdict | MotetError


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """A sentence about some of the bundles, by their positions."""

    about: tuple[int, ...]
    says: str


def remarks(checked: Sequence[Checked]) -> Iterator[Remark]:
    """Yield what no single bundle shows; bundles that do not hold are only counted as given."""
    yield from _twice(checked)
    rosters: dict[str, list[int]] = {}
    for at, one in enumerate(checked):
        if isinstance(one.result, Verdict):
            rosters.setdefault(one.result.roster_hash, []).append(at)
    if len(rosters) > 1:
        everywhere = tuple(at for held in rosters.values() for at in held)
        yield Remark(
            about=everywhere, says=f"The bundles hold {len(rosters)} different rosters: they are not of one federation's run."
        )
    given = {one.hospital for one in checked}
    for places in rosters.values():
        first = checked[places[0]].result
        absent = [name for name in first.roster if name not in given] if isinstance(first, Verdict) else []
        if absent:
            kind = "readable bundle" if None in given else "bundle"
            yield Remark(about=tuple(places), says=f"The roster also names {', '.join(absent)}: no {kind} was given.")


def _twice(checked: Sequence[Checked]) -> Iterator[Remark]:
    seen: dict[str, int] = {}
    for at, one in enumerate(checked):
        if not isinstance(one.result, Verdict):
            continue
        name = one.result.hospital
        before = seen.setdefault(name, at)
        earlier = checked[before].result
        if before == at or not isinstance(earlier, Verdict):
            continue
        if earlier.root == one.result.root:
            says = f"{name}: given twice, it counts as one bundle."
        elif earlier.entries == one.result.entries:
            says = (
                f"{name}: given twice, as two different ledgers of {earlier.entries} entries: ask the hospital why it has two."
            )
        else:
            says = f"{name}: given twice, with {earlier.entries} and with {one.result.entries} entries; keep the longer."
        yield Remark(about=(before, at), says=says)
