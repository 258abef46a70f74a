"""What a hospital's page says in one language: titles, sentences, tables, the curve; how they look is not decided here."""

import hashlib
import json
import math
from collections.abc import Sequence  # noqa: TC003
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from common.audit import figure, report
from common.audit.figure import Figure
from common.audit.report import Facts

LANGUAGES: Final = ("en", "zh")
NEIGHBOURS: Final = ("add-or-remove-one", "zero-out", "replace-one", "two-hospitals")


@dataclass(frozen=True, slots=True, kw_only=True)
class Paragraph:
    """A sentence or several; what stands between backticks is code."""

    text: str
    big: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """A list of sentences."""

    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table with titles."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Commands:
    """Lines to type."""

    text: str


Block = Paragraph | Items | Table | Commands | Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The whole page; its numbers are those of the record whose hash the footer says."""

    language: str
    title: str
    sections: tuple[Section, ...]
    footer: str


def page(told: Facts, *, language: str) -> Page:
    """Return what the page of these facts says; raises KeyError on a language that is not in LANGUAGES."""
    say, values = _messages(language), told.values
    digest = hashlib.sha256(report.plain(told)).hexdigest()
    parts: dict[str, Sequence[Block]] = {
        "protected": [Paragraph(text=say("protected_text"))],
        "odds": [Paragraph(text=_odds(say, values), big=True)],
        "epsilon": [Paragraph(text=text) for text in _epsilon(say, values)],
        "exact": _exact(say, values),
        "burn": _burn(say, values),
        "collusion": _collusion(say, values),
        "ledger": [Paragraph(text=text) for text in _ledger(say, values)],
        "attacks": _attacks(say, values),
        "assumed": [Items(texts=tuple(say.list("assumed_list")))],
        "verify": [Paragraph(text=say("verify_text")), Commands(text=_commands(values))],
        "sign": [Table(titles=tuple(say.list("sign_list")), rows=(("\N{NO-BREAK SPACE}",) * len(say.list("sign_list")),))],
    }
    return Page(
        language=language,
        title=say("title", hospital=told.hospital),
        sections=tuple(Section(title=say(key), blocks=tuple(blocks)) for key, blocks in parts.items()),
        footer=say("footer", name=told.hospital, digest=digest),
    )


class _Say:
    """The texts of one language."""

    def __init__(self, language: str, texts: dict[str, Any]) -> None:
        self._language, self._texts = language, texts

    def __call__(self, key: str, **values: object) -> str:
        return str(self._texts[key][self._language]).format(**values)

    def list(self, key: str) -> list[str]:
        return [str(text) for text in self._texts[key][self._language]]


@cache
def _messages(language: str) -> _Say:
    return _Say(language, json.loads(Path(__file__).with_name("messages.json").read_bytes()))


def _odds(say: _Say, values: dict[str, Any]) -> str:
    if not values["private"]:
        return say("odds_none")
    if values["right_of_100"] is None:
        return say("odds_open")
    return say("odds_text", right=values["right_of_100"], found=values["found_of_100"])


def _epsilon(say: _Say, values: dict[str, Any]) -> list[str]:
    if not values["private"]:
        return [say("odds_none")]
    said = [say("epsilon_text", rdp=_shown(values["rdp"]), delta=_shown(values["delta"]), cap=_shown(values["cap"]))]
    if values["pld_withheld"]:
        return [*said, say("epsilon_withheld", reason=values["pld_withheld"])]
    said.append(say("epsilon_pld", pld=_shown(values["pld"]), second=_shown(values["pld_independent"])))
    third = say("epsilon_prv_none") if values["prv"] is None else say("epsilon_prv", prv=values["prv"])
    return [*said, third]


def _exact(say: _Say, values: dict[str, Any]) -> list[Block]:
    rows = values["exact"]
    if not rows:
        return [Paragraph(text=say("exact_none"))]
    titles = tuple(say(f"exact_{name}") for name in ("statistic", "study", "rounds", "fewest"))
    body = tuple((row["statistic"], row["study"][:12], str(row["rounds"]), str(row["hospitals_fewest"])) for row in rows)
    return [Paragraph(text=say("exact_text", count=sum(row["rounds"] for row in rows))), Table(titles=titles, rows=body)]


def _burn(say: _Say, values: dict[str, Any]) -> list[Block]:
    points = [(count, float(epsilon)) for count, epsilon in values["burn_down"] if epsilon != "infinite"]
    if not points or values["cap"] is None:
        return [Paragraph(text=say("burn_none"))]
    cap = float(values["cap"])
    before = points[-2] if len(points) > 1 else (0, 0.0)
    pace = (points[-1][1] - before[1]) / max(1, points[-1][0] - before[0])
    left = "?" if pace <= 0 else max(0, math.floor((cap - points[-1][1]) / pace))
    drawn = figure.curve(
        points,
        limit=cap,
        title=say("burn"),
        description=say("burn_drawn", epsilon=f"{points[-1][1]:.4f}", count=points[-1][0], cap=f"{cap:g}"),
        x_label=say("burn_x"),
        y_label=say("burn_y", delta=_shown(values["delta"])),
        limit_label=say("burn_cap", cap=f"{cap:g}"),
    )
    return [Paragraph(text=say("burn_text", left=left)), drawn]


def _collusion(say: _Say, values: dict[str, Any]) -> list[Block]:
    rows = values["neighbours"]
    if not rows:
        return [Paragraph(text=say("odds_none"))]
    told = Table(
        titles=tuple(say.list("collusion_list")),
        rows=tuple(tuple(str(row[name]) for name in ("colluders", *NEIGHBOURS)) for row in rows),
    )
    return [
        Paragraph(text=say("collusion_text", planned=values["colluders_planned"])),
        told,
        Paragraph(text=say("collusion_neighbours")),
    ]


def _ledger(say: _Say, values: dict[str, Any]) -> list[str]:
    counts = {name: values[name] for name in ("entries", "root", "refusals", "forfeited", "void", "last_entry")}
    seen = values["witnesses"]
    by = say("ledger_seen", entries=values["witnessed_entries"], by=", ".join(seen)) if seen else say("ledger_unseen")
    return [say("ledger_text", **counts), by]


def _attacks(say: _Say, values: dict[str, Any]) -> list[Block]:
    rows = values["attacks"]
    if not rows:
        return [Paragraph(text=say("attacks_none"))]
    titles = tuple(say(f"attacks_{name}") for name in ("name", "claimed", "seen", "verdict"))
    body: list[tuple[str, ...]] = []
    for one in rows:
        held = sum(check["holds"] for check in one["checks"])
        count = say("attacks_count", held=held, checks=len(one["checks"]))
        body.append((one["attack"], one["sha256"][:12], count, say("attacks_holds" if one["holds"] else "attacks_fails")))
        body += [
            (check["name"], check["claim"], check["seen"], say("attacks_holds" if check["holds"] else "attacks_fails"))
            for check in one["checks"]
            if one["attack"] != "conformance" or not check["holds"]  # its checks are many, and say little where they hold
        ]
    return [Paragraph(text=say("attacks_text")), Table(titles=titles, rows=tuple(body))]


def _commands(values: dict[str, Any]) -> str:
    hospital, goes_on = values["hospital"], " \\\n    "  # a line that a page would wrap cannot be copied from it as one command
    given = "".join(f"{goes_on}--attacks {one['attack']}.json" for one in values["attacks"])
    return (
        "python -m pip install -c deploy/constraints.txt .\n"
        f"motet-audit verify {hospital}.bundle.zip{goes_on}--roster-hash {values['roster']}\n"
        f"motet-audit report {hospital}.bundle.zip{given}{goes_on}--out . && sha256sum {hospital}.json"
    )


def _shown(value: object) -> str:
    return "-" if value is None else str(value)
