"""The page that a data protection officer signs: what one hospital gave, in odds and plain words, and how to check."""

import hashlib
import html
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Final

from common import canonical
from common.audit import accountants, recompute
from common.audit.bundle import Bundle
from common.audit.verify import Verdict
from common.ledger import accounting
from common.ledger.accounting import Tally
from common.ledger.state import State
from common.mechanism import GaussianShare

LANGUAGES: Final = ("en", "zh")
GRID: Final = 1e-3
LEVELS: Final = tuple(at / 10 for at in range(121))  # epsilons at which the trade-off is read
FALSE_ALARM: Final = 0.01
POINTS_MOST: Final = 200  # of the curve
WIDTH, HEIGHT, EDGE = 640, 180, 40
STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#111}"
    "h1{font-size:1.5rem}h2{font-size:1.05rem;margin:1.4rem 0 .3rem}table{border-collapse:collapse}"
    "td,th{padding:.15rem .8rem .15rem 0;text-align:left;border-bottom:1px solid #ddd}"
    "code,pre{font:12px ui-monospace,monospace;overflow-wrap:anywhere;white-space:pre-wrap}footer{margin-top:2rem;color:#555}"
    ".big{font-size:1.2rem}@media print{body{margin:0}}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The page's numbers, as canonical JSON holds them: texts and whole numbers. A rendering adds none."""

    hospital: str
    values: dict[str, Any]


def facts(bundle: Bundle, verdict: Verdict) -> Facts:
    """Return what the page of a verified bundle says; the same bundle gives the same facts."""
    state = accountants.replayed(bundle)
    costs = accountants.costs(bundle, verdict)
    right, found = _odds(state.tally)
    return Facts(
        hospital=verdict.hospital,
        values={
            "version": 1,
            "hospital": verdict.hospital,
            "ledger": verdict.origin,
            "entries": verdict.entries,
            "root": verdict.root,
            "roster": verdict.roster_hash,
            "witnessed_entries": verdict.witnessed_entries,
            "witnesses": list(verdict.witnesses),
            "refusals": verdict.refusals,
            "forfeited": verdict.forfeited,
            "void": verdict.releases_void,
            "private": verdict.releases_private,
            "unit": "patient",
            "adjacency": "add-or-remove-one",
            "delta": costs.delta,
            "cap": verdict.epsilon_cap,
            "rdp": _finite(costs.rdp),
            "pld": _finite(costs.pld),
            "pld_independent": _finite(costs.pld_independent),
            "pld_withheld": costs.pld_withheld,
            "closed_form": _finite(costs.closed_form),
            "by_study": {name: _finite(added) for name, added in costs.by_study},
            "right_of_100": right,
            "found_of_100": found,
            "exact": _exact(verdict),
            "burn_down": [list(point) for point in _burn_down(state, costs.delta)],
            "collusion": [list(row) for row in _collusion(state, costs.delta)],
            "colluders_planned": max((one.colluders for one in _private(state)), default=0),
        },
    )


def plain(told: Facts) -> bytes:
    """Return the record that the page renders, canonical: one spelling, so that its hash is the page's."""
    return canonical.encode(told.values) + b"\n"


def render(told: Facts, *, language: str) -> str:
    """Return the page, one HTML file without a script, an image or an address; byte for byte the same for the same facts."""
    say, values = _messages(language), told.values
    digest = hashlib.sha256(plain(told)).hexdigest()
    parts = [
        f"<h1>{_text(say('title', hospital=told.hospital))}</h1>",
        _section(say("protected"), _p(say("protected_text"))),
        _section(say("odds"), _p(_said_odds(say, values), kind="big")),
        _section(say("epsilon"), *map(_p, _said_epsilon(say, values))),
        _section(say("exact"), *_said_exact(say, values)),
        _section(say("burn"), *_said_burn(say, values)),
        _section(say("collusion"), *_said_collusion(say, values)),
        _section(say("ledger"), *map(_p, _said_ledger(say, values))),
        _section(say("assumed"), "<ul>" + "".join(f"<li>{_spoken(one)}</li>" for one in say.list("assumed_list")) + "</ul>"),
        _section(say("verify"), _p(say("verify_text")), f"<pre>{_text(_commands(told.hospital, values['roster']))}</pre>"),
        f"<footer>{_text(say('footer', name=told.hospital, digest=digest))}</footer>",
    ]
    head = f'<meta charset="utf-8"><title>{_text(say("title", hospital=told.hospital))}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="{language}"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"


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


def _odds(tally: Tally) -> tuple[int | None, int | None]:
    """Return how often of 100 the best guesser is right, and how many he finds at 1 % false alarms; None where unbounded."""
    steps = accountants.steps(tally)
    if not steps:
        return 50, 1
    deltas = [
        min(1.0, delta + added)
        for level, delta in zip(LEVELS, recompute.profile(steps, epsilons=LEVELS, grid=GRID), strict=True)
        if math.isfinite(added := tally.delta_added(epsilon=level))
    ]
    if len(deltas) < len(LEVELS) or deltas[0] >= 1:
        return None, None
    found = min(math.exp(level) * FALSE_ALARM + delta for level, delta in zip(LEVELS, deltas, strict=True))
    return math.ceil(50 * (1 + deltas[0])), min(100, math.ceil(100 * found))


def _private(state: State) -> list[GaussianShare]:
    return [one.mechanism for one in state.private() if isinstance(one.mechanism, GaussianShare)]


def _burn_down(state: State, delta: Decimal | None) -> list[tuple[int, str]]:
    """Return the number of a charge and epsilon after it, at most POINTS_MOST of them, the last always."""
    spent, points = _private(state), []
    tally, every = Tally(), max(1, math.ceil(len(spent) / POINTS_MOST))
    for number, one in enumerate(spent, start=1):
        tally.add(one)
        if delta is not None and (number % every == 0 or number == len(spent)):
            points.append((number, _finite(accounting.round_up(tally.epsilon_rdp(delta=delta))) or "infinite"))
    return points


def _collusion(state: State, delta: Decimal | None) -> list[tuple[int, str]]:
    """Return epsilon (RDP) for each number of colluding hospitals that leaves at least one honest in every round."""
    spent = _private(state)
    rows = []
    for colluders in range(min((one.hospitals for one in spent), default=0)):
        tally = Tally()
        for one in spent:
            tally.add(_against(one, colluders))
        epsilon = Decimal(0) if delta is None else accounting.round_up(tally.epsilon_rdp(delta=delta))
        rows.append((colluders, _finite(epsilon) or "infinite"))
    return rows


def _against(one: GaussianShare, colluders: int) -> GaussianShare:
    """Return a release as it is against so many colluders: its shares are as large as they were made for the planned number."""
    if one.shares != one.honest:
        return one  # each hospital's own noise is the whole: nobody's share is missing
    honest = one.hospitals - colluders
    noise = (one.noise_multiplier * (Decimal(honest) / one.honest).sqrt()).quantize(Decimal("1e-9"))
    return replace(one, noise_multiplier=noise, colluders=colluders)


def _exact(verdict: Verdict) -> list[dict[str, Any]]:
    rounds = Counter((one.study, one.statistic) for one in verdict.exact)
    fewest: defaultdict[tuple[str, str], int] = defaultdict(lambda: 1 << 30)
    for one in verdict.exact:
        fewest[one.study, one.statistic] = min(fewest[one.study, one.statistic], one.hospitals)
    return [
        {"study": study, "statistic": statistic, "rounds": count, "hospitals_fewest": fewest[study, statistic]}
        for (study, statistic), count in sorted(rounds.items())
    ]


def _said_odds(say: _Say, values: dict[str, Any]) -> str:
    if not values["private"]:
        return say("odds_none")
    if values["right_of_100"] is None:
        return say("odds_open")
    return say("odds_text", right=values["right_of_100"], found=values["found_of_100"])


def _said_epsilon(say: _Say, values: dict[str, Any]) -> list[str]:
    if not values["private"]:
        return [say("odds_none")]
    said = [say("epsilon_text", rdp=_shown(values["rdp"]), delta=_shown(values["delta"]), cap=_shown(values["cap"]))]
    if values["pld_withheld"]:
        return [*said, say("epsilon_withheld", reason=values["pld_withheld"])]
    return [*said, say("epsilon_pld", pld=_shown(values["pld"]), second=_shown(values["pld_independent"]))]


def _said_exact(say: _Say, values: dict[str, Any]) -> list[str]:
    rows = values["exact"]
    if not rows:
        return [_p(say("exact_none"))]
    titles = [say(f"exact_{name}") for name in ("statistic", "study", "rounds", "fewest")]
    body = [[row["statistic"], row["study"][:12], row["rounds"], row["hospitals_fewest"]] for row in rows]
    return [_p(say("exact_text", count=sum(row["rounds"] for row in rows))), _table(titles, body)]


def _said_burn(say: _Say, values: dict[str, Any]) -> list[str]:
    points = [(count, float(epsilon)) for count, epsilon in values["burn_down"] if epsilon != "infinite"]
    if not points or values["cap"] is None:
        return [_p(say("burn_none"))]
    cap = float(values["cap"])
    before = points[-2] if len(points) > 1 else (0, 0.0)
    pace = (points[-1][1] - before[1]) / max(1, points[-1][0] - before[0])
    left = "?" if pace <= 0 else max(0, math.floor((cap - points[-1][1]) / pace))
    return [_p(say("burn_text", left=left)), _curve(points, cap, title=say("burn"))]


def _said_collusion(say: _Say, values: dict[str, Any]) -> list[str]:
    rows = values["collusion"]
    if not rows:
        return [_p(say("odds_none"))]
    titles = [say("collusion_count"), say("epsilon")]
    return [_p(say("collusion_text", planned=values["colluders_planned"])), _table(titles, rows)]


def _said_ledger(say: _Say, values: dict[str, Any]) -> list[str]:
    counts = {name: values[name] for name in ("entries", "root", "refusals", "forfeited", "void")}
    seen = values["witnesses"]
    by = say("ledger_seen", entries=values["witnessed_entries"], by=", ".join(seen)) if seen else say("ledger_unseen")
    return [say("ledger_text", **counts), by]


def _curve(points: Sequence[tuple[int, float]], cap: float, *, title: str) -> str:
    top = max(cap, points[-1][1]) * 1.05
    wide, high = WIDTH - 2 * EDGE, HEIGHT - 2 * EDGE

    def at(count: float, epsilon: float) -> str:
        return f"{EDGE + wide * count / points[-1][0]:.1f},{EDGE + high * (1 - epsilon / top):.1f}"

    line = " ".join(at(*point) for point in [(0, 0.0), *points])
    limit = f"{at(0, cap)} {at(points[-1][0], cap)}"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" width="100%"><title>{_text(title)}</title>'
        f"<desc>{points[-1][1]:.4f} / {cap:g}</desc>"
        f'<polyline points="{limit}" fill="none" stroke="#b00" stroke-dasharray="6 4"/>'
        f'<polyline points="{line}" fill="none" stroke="#036" stroke-width="2"/>'
        f'<text x="{EDGE}" y="{HEIGHT - 12}" font-size="12">0</text>'
        f'<text x="{WIDTH - EDGE}" y="{HEIGHT - 12}" font-size="12" text-anchor="end">{points[-1][0]}</text>'
        f'<text x="{EDGE}" y="{EDGE - 8}" font-size="12">{cap:g}</text></svg>'
    )


def _commands(hospital: str, roster: str) -> str:
    return (
        f"python -m pip install -c deploy/constraints.txt .\nmotet-audit verify {hospital}.bundle.zip --roster-hash {roster}\n"
        f"motet-audit report {hospital}.bundle.zip --out . && sha256sum {hospital}.json"
    )


def _finite(number: Decimal | None) -> str | None:
    return None if number is None or not number.is_finite() else canonical.decimal_text(number)


def _shown(value: object) -> str:
    return "-" if value is None else str(value)


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{_text(title)}</h2>{''.join(parts)}</section>"


def _spoken(text: str) -> str:
    """Return text as HTML, with what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", _text(text))


def _p(text: str, *, kind: str = "") -> str:
    return f'<p class="{kind}">{_text(text)}</p>' if kind else f"<p>{_text(text)}</p>"


def _table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    head = "".join(f"<th>{_text(title)}</th>" for title in titles)
    body = "".join("<tr>" + "".join(f"<td>{_text(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _text(text: str) -> str:
    return html.escape(text)
