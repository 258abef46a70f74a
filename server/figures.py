"""The report's figures as inline SVG text: no script, no request, a title and a description each, the same bytes every time."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from markupsafe import Markup

INK, MUTED, GRID, ACCENT, ALARM = "#1b2733", "#5b6b7a", "#dde3e8", "#0b6e6e", "#b3261e"
COLD, WARM = (33, 102, 172), (178, 24, 43)  # a diverging pair that colour-blind readers can tell apart

Number = float | None


def number(value: Any) -> float | None:  # noqa: ANN401
    """Return a finite float, or None for anything else (None, nan, text that is no number)."""
    try:
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None


def heatmap(names: Sequence[str], r: Sequence[Sequence[Number]], marks: Sequence[Sequence[str]]) -> Markup:
    """Draw a correlation matrix: red above zero, blue below, grey where there is no number; `marks` are its stars."""
    p = len(names)
    cell = max(12.0, min(58.0, 660 / max(p, 1)))
    left, top = label_width(names), 24 + label_width(names) * 0.72
    parts = []
    for i, name in enumerate(names):
        y = top + i * cell
        parts.append(text(left - 8, y + cell / 2 + 4, name, anchor="end", size=min(12.0, cell)))
        x = left + i * cell + cell / 2
        parts.append(text(x, top - 8, name, anchor="start", size=min(12.0, cell), rotate=(-45, x, top - 8)))
        for j in range(p):
            value = number(r[i][j])
            parts.append(
                f'<rect x="{left + j * cell:.1f}" y="{y:.1f}" width="{cell - 1:.1f}" height="{cell - 1:.1f}" rx="2" '
                f'fill="{_colour(value)}"/>'
            )
            if p > 12 and i != j and marks[i][j]:
                centre = (left + j * cell + cell / 2 - 0.5, y + cell / 2 - 0.5)
                parts.append(f'<circle cx="{centre[0]:.1f}" cy="{centre[1]:.1f}" r="{cell / 10:.1f}" fill="{INK}"/>')
            if p <= 12:
                ink = "#ffffff" if value is not None and abs(value) > 0.55 else INK
                middle = left + j * cell + cell / 2
                shift = 0 if i == j or not marks[i][j] else -3
                parts.append(text(middle, y + cell / 2 + 4 + shift, _two(value), anchor="middle", size=cell / 4.4, fill=ink))
                if i != j:
                    parts.append(text(middle, y + cell / 2 + 13, marks[i][j], anchor="middle", size=cell / 4.4, fill=ink))
    height = top + p * cell + 46
    for step in range(41):
        x = left + step * 5
        parts.append(f'<rect x="{x:.1f}" y="{height - 28:.1f}" width="5.5" height="10" fill="{_colour(step / 20 - 1)}"/>')
    ends = enumerate(("\u22121", "0", "+1"))
    parts.extend(text(left + 102 * at, height - 4, end, anchor="middle", size=11) for at, end in ends)
    width = left + max(p * cell, 210) + label_width(names) * 0.72 + 10
    description = f"Pearson correlations of {p} variables; the numbers are in the table below."
    return svg("heatmap", "Correlation matrix", description, width=width, height=height, body=parts)


def coefficients(rows: Sequence[Mapping[str, Any]], *, unit: str, key: str = "coefficients") -> Markup:
    """Draw estimates with intervals around zero; rows hold term, estimate, low, high and `clear` (the interval spares zero)."""
    left, width, line = label_width([str(row["term"]) for row in rows]), 920.0, 34.0
    ends = [value for row in rows for value in (row["low"], row["high"])] or [0.0]
    low, high = min(0.0, *ends), max(0.0, *ends)
    margin = (high - low) * 0.06 or 1.0
    low, high = low - margin, high + margin
    at = Axis(low, high, left, width - 20)
    bottom = 12 + line * len(rows)
    parts = ticks(low, high, at, top=8, bottom=bottom)
    parts.append(f'<line x1="{at(0):.1f}" y1="8" x2="{at(0):.1f}" y2="{bottom:.1f}" stroke="{INK}" stroke-width="1.2"/>')
    for i, row in enumerate(rows):
        y = 12 + line * (i + 0.5)
        colour = ACCENT if row["clear"] else MUTED
        fill = colour if row["clear"] else "#ffffff"
        parts.append(text(left - 10, y + 4, str(row["term"]), anchor="end", size=12.5))
        parts.append(
            f'<line x1="{at(row["low"]):.1f}" y1="{y:.1f}" x2="{at(row["high"]):.1f}" y2="{y:.1f}" stroke="{colour}" '
            f'stroke-width="2.4" stroke-linecap="round"/>'
        )
        parts.append(
            f'<circle cx="{at(row["estimate"]):.1f}" cy="{y:.1f}" r="5" fill="{fill}" stroke="{colour}" stroke-width="2"/>'
        )
    parts.append(text((left + width - 20) / 2, bottom + 36, unit, anchor="middle", size=12, fill=MUTED, most=110))
    return svg(
        key,
        "Regression coefficients with 95 % intervals",
        f"{len(rows)} coefficients; filled where the interval does not hold zero. The numbers are in the table below.",
        width=width,
        height=bottom + 46,
        body=parts,
    )


def curve(points: Sequence[tuple[float, float]], *, key: str, label: str, bounds: tuple[float, float] | None = None) -> Markup:
    """Draw a value against training steps."""
    width, height, left, bottom = 380.0, 240.0, 54.0, 196.0
    values = [value for _, value in points]
    low, high = bounds or (min(values), max(values))
    if bounds is None:
        pad = (high - low) * 0.08 or 0.1
        low, high = low - pad, high + pad
    x = Axis(0, max(step for step, _ in points) or 1, left, width - 14)
    y = Axis(low, high, bottom, 22)
    parts = ticks(0, max(step for step, _ in points) or 1, x, top=22, bottom=bottom)
    for value in nice(low, high):
        parts.append(f'<line x1="{left}" y1="{y(value):.1f}" x2="{width - 14}" y2="{y(value):.1f}" stroke="{GRID}"/>')
        parts.append(text(left - 8, y(value) + 4, tick(value), anchor="end", size=11, fill=MUTED))
    path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)
    parts.append(f'<polyline points="{path}" fill="none" stroke="{ACCENT}" stroke-width="2.2" stroke-linejoin="round"/>')
    step, value = points[-1]
    parts.append(f'<circle cx="{x(step):.1f}" cy="{y(value):.1f}" r="4" fill="{ACCENT}"/>')
    parts.append(text(left, 14, label, size=12.5, weight=600))
    parts.append(text((left + width) / 2, height - 6, "training step", anchor="middle", size=11.5, fill=MUTED))
    description = f"{label} at {len(points)} steps, from {points[0][1]:.3f} to {points[-1][1]:.3f}. The table below has all."
    return svg(key, f"{label} during training", description, width=width, height=height, body=parts)


def rounds(bars: Sequence[tuple[int, float, bool]]) -> Markup:
    """Draw the seconds of each round, (number, seconds, opened); a void round is an outline with a cross above it."""
    width, height, left, bottom = 380.0, 240.0, 54.0, 196.0
    most = max([1e-6, *(seconds for _, seconds, _ in bars)]) * 1.12
    y, slot = Axis(0, most, bottom, 22), (width - 14 - left) / max(len(bars), 12)
    parts = []
    for value in nice(0, most):
        parts.append(f'<line x1="{left}" y1="{y(value):.1f}" x2="{width - 14}" y2="{y(value):.1f}" stroke="{GRID}"/>')
        parts.append(text(left - 8, y(value) + 4, f"{value:g}", anchor="end", size=11, fill=MUTED))
    labelled = max(1, math.ceil(len(bars) / 8))
    for at, (number, seconds, opened) in enumerate(bars):
        x, top = left + at * slot + slot * 0.12, y(seconds)
        look = f'fill="{ACCENT}"' if opened else f'fill="#ffffff" stroke="{ALARM}" stroke-width="1.5"'
        parts.append(
            f'<rect x="{x:.1f}" y="{top:.1f}" width="{slot * 0.76:.1f}" height="{max(1.0, bottom - top):.1f}" {look}/>'
        )
        if not opened:
            parts.append(text(x + slot * 0.38, top - 4, "\u00d7", anchor="middle", size=13, fill=ALARM, weight=700))
        if (len(bars) - 1 - at) % labelled == 0:
            parts.append(text(x + slot * 0.38, bottom + 16, str(number), anchor="middle", size=11, fill=MUTED))
    parts.append(text(left, 14, "Seconds per round", size=12.5, weight=600))
    parts.append(text((left + width) / 2, height - 6, "round (\u00d7 void)", anchor="middle", size=11.5, fill=MUTED))
    void = sum(not opened for _, _, opened in bars)
    description = f"Seconds of the last {len(bars)} rounds, {void} of them void. The table below has the newest."
    return svg("rounds", "Seconds per round", description, width=width, height=height, body=parts)


def roc(points: Sequence[tuple[float, float]], *, key: str = "roc", title: str = "ROC of the final model") -> Markup:
    """Draw a receiver operating characteristic through (false positive rate, sensitivity) points."""
    size, left, top = 340.0, 52.0, 14.0
    x, y = Axis(0, 1, left, left + size), Axis(0, 1, top + size, top)
    parts = []
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<line x1="{x(value):.1f}" y1="{top}" x2="{x(value):.1f}" y2="{top + size}" stroke="{GRID}"/>')
        parts.append(f'<line x1="{left}" y1="{y(value):.1f}" x2="{left + size}" y2="{y(value):.1f}" stroke="{GRID}"/>')
        parts.append(text(x(value), top + size + 18, tick(value), anchor="middle", size=11, fill=MUTED))
        parts.append(text(left - 8, y(value) + 4, tick(value), anchor="end", size=11, fill=MUTED))
    parts.append(f'<line x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(1)}" stroke="{MUTED}" stroke-dasharray="5 4"/>')
    path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
    parts.append(f'<polygon points="{path} {x(1):.1f},{y(0):.1f}" fill="{ACCENT}" fill-opacity="0.10"/>')
    parts.append(f'<polyline points="{path}" fill="none" stroke="{ACCENT}" stroke-width="2.4" stroke-linejoin="round"/>')
    parts.append(text(left + size / 2, top + size + 38, "1 \u2212 specificity", anchor="middle", size=12, fill=MUTED))
    parts.append(
        text(12, top + size / 2, "sensitivity", anchor="middle", size=12, fill=MUTED, rotate=(-90, 12, top + size / 2))
    )
    description = "Sensitivity against one minus specificity at each score threshold; the counts are in the table below."
    return svg(key, title, description, width=left + size + 14, height=top + size + 48, body=parts)


def budgets(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """Draw each hospital's epsilon as a bar and its cap as a line; rows hold name, epsilon and cap (None where unknown)."""
    left, width, line = label_width([str(row["name"]) for row in rows]), 920.0, 34.0
    most = max([1e-9, *(value for row in rows for value in (row["epsilon"], row["cap"]) if value is not None)]) * 1.12
    at = Axis(0, most, left, width - 20)
    bottom = 8 + line * len(rows)
    parts = ticks(0, most, at, top=4, bottom=bottom)
    for i, row in enumerate(rows):
        y, epsilon, cap = 8 + line * i, row["epsilon"], row["cap"]
        parts.append(text(left - 10, y + line / 2 + 4, str(row["name"]), anchor="end", size=12.5))
        over = epsilon is not None and cap is not None and epsilon > cap
        if epsilon is not None:
            parts.append(
                f'<rect x="{left:.1f}" y="{y + 8:.1f}" width="{at(epsilon) - left:.1f}" height="{line - 16}" rx="3" '
                f'fill="{ALARM if over else ACCENT}"/>'
            )
        if cap is not None:
            parts.append(
                f'<line x1="{at(cap):.1f}" y1="{y + 3:.1f}" x2="{at(cap):.1f}" y2="{y + line - 3:.1f}" stroke="{INK}" '
                f'stroke-width="2.5"/>'
            )
    unit = "epsilon of the noisy releases (bar), the hospital's cap (line)"
    parts.append(text((left + width - 20) / 2, bottom + 36, unit, anchor="middle", size=12, fill=MUTED, most=110))
    description = f"Epsilon spent at {len(rows)} hospitals against their caps; the numbers are in the table below."
    return svg("epsilon", "Epsilon per hospital", description, width=width, height=bottom + 46, body=parts)


def svg(key: str, title: str, description: str, *, width: float, height: float, body: Sequence[str]) -> Markup:
    """Return a whole figure; `key` makes its ids, which are unique on a page. Texts in `body` went through `text`."""
    return Markup(  # noqa: S704  (every text in the body went through escape)
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="{key}-title {key}-desc" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}">'
        f'<title id="{key}-title">{escape(title)}</title><desc id="{key}-desc">{escape(description)}</desc>'
        f"{''.join(body)}</svg>"
    )


def text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: float = 12.0,
    fill: str = INK,
    weight: int = 400,
    rotate: tuple[float, float, float] | None = None,
    most: int = 28,
) -> str:
    """Return an escaped label, cut after `most` characters."""
    turn = "" if rotate is None else f' transform="rotate({rotate[0]:g} {rotate[1]:.1f} {rotate[2]:.1f})"'
    short = text if len(text) <= most else text[: most - 1] + "\u2026"
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size:.1f}" font-weight="{weight}" '
        f'fill="{fill}"{turn}>{escape(short)}</text>'
    )


class Axis:
    """A linear map from values to pixels."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self._low, self._start, self._scale = low, start, (end - start) / ((high - low) or 1)

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        return self._start + (value - self._low) * self._scale


def ticks(low: float, high: float, at: Axis, *, top: float, bottom: float) -> list[str]:
    """Return the grid lines and labels of a horizontal axis."""
    parts = []
    for value in nice(low, high):
        parts.append(f'<line x1="{at(value):.1f}" y1="{top}" x2="{at(value):.1f}" y2="{bottom:.1f}" stroke="{GRID}"/>')
        parts.append(text(at(value), bottom + 16, tick(value), anchor="middle", size=11, fill=MUTED))
    return parts


def tick(value: float) -> str:
    """Return the label of a grid line, with the minus that the tables have."""
    return f"{value:g}".replace("-", "\u2212")


def nice(low: float, high: float) -> list[float]:
    """Return about five round values inside [low, high]."""
    span = high - low
    if not span > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= span / 5)
    return [round(k * step, 12) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def label_width(names: Sequence[str]) -> float:
    """Return the room that labels need, in pixels."""
    return 24 + 7.2 * min(28, max((len(name) for name in names), default=8))


def _colour(value: Number) -> str:
    if value is None:
        return "#e9ecef"
    end = WARM if value > 0 else COLD
    share = min(1.0, abs(value))
    return "#" + "".join(f"{round(250 + (channel - 250) * share):02x}" for channel in end)


def _two(value: Number) -> str:
    return "\u2013" if value is None else f"{value:.2f}".replace("-", "\u2212")
