"""Figures of an evaluation as inline SVG: how scores agree with shares, and which class is taken for which."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from server.figures import ACCENT, GRID, INK, MUTED, Axis, label_width, number, svg, text

SIZE, LEFT, TOP = 340.0, 52.0, 14.0


def reliability(rows: Sequence[Mapping[str, Any]], *, title: str, key: str) -> Markup:
    """Draw the observed share of positives against the predicted one, with 95 % intervals; rows without one are left out."""
    x, y = Axis(0, 1, LEFT, LEFT + SIZE), Axis(0, 1, TOP + SIZE, TOP)
    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<line x1="{x(tick):.1f}" y1="{TOP}" x2="{x(tick):.1f}" y2="{TOP + SIZE}" stroke="{GRID}"/>')
        parts.append(f'<line x1="{LEFT}" y1="{y(tick):.1f}" x2="{LEFT + SIZE}" y2="{y(tick):.1f}" stroke="{GRID}"/>')
        parts.append(text(x(tick), TOP + SIZE + 18, f"{tick:g}", anchor="middle", size=11, fill=MUTED))
        parts.append(text(LEFT - 8, y(tick) + 4, f"{tick:g}", anchor="end", size=11, fill=MUTED))
    parts.append(f'<line x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(1)}" stroke="{MUTED}" stroke-dasharray="5 4"/>')
    points = []
    for row in rows:
        seen = row["observed"]
        value, low, high = (number(seen[end]) for end in ("value", "low", "high"))
        if value is None or low is None or high is None:
            continue
        at = x(float(row["predicted"]))
        points.append((at, y(value)))
        parts.append(
            f'<line x1="{at:.1f}" y1="{y(low):.1f}" x2="{at:.1f}" y2="{y(high):.1f}" stroke="{ACCENT}" stroke-width="2"/>'
        )
    drawn = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    parts.append(f'<polyline points="{drawn}" fill="none" stroke="{ACCENT}" stroke-width="1.4"/>')
    parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="4.5" fill="{ACCENT}"/>' for a, b in points]
    middle = TOP + SIZE / 2
    parts.append(text(LEFT + SIZE / 2, TOP + SIZE + 38, "predicted probability", anchor="middle", size=12, fill=MUTED))
    parts.append(text(12, middle, "observed share", anchor="middle", size=12, fill=MUTED, rotate=(-90, 12, middle)))
    description = f"Observed against predicted shares in {len(points)} groups of scores; on the dashed line they agree."
    return svg(key, title, description, width=LEFT + SIZE + 14, height=TOP + SIZE + 48, body=parts)


def confusion(counts: Sequence[Sequence[float]], *, classes: Sequence[str], key: str) -> Markup:
    """Draw how many patients of each class, in rows, were taken for which; the darker, the larger the share of its row."""
    left, cell, top = label_width(classes) + 20, 64.0, 62.0
    parts = [text(left + cell * len(classes) / 2, 16, "predicted", anchor="middle", size=12, fill=MUTED)]
    for column, name in enumerate(classes):
        x = left + cell * (column + 0.5)
        parts.append(text(x, top - 12, name, anchor="middle", size=11.5, most=9))
    for at, (row, name) in enumerate(zip(counts, classes, strict=True)):
        y, total = top + cell * at, max(sum(max(0.0, value) for value in row), 1e-9)
        parts.append(text(left - 10, y + cell / 2 + 4, name, anchor="end", size=12))
        for column, value in enumerate(row):
            share, x = max(0.0, value) / total, left + cell * column
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{cell - 2:.1f}" height="{cell - 2:.1f}" rx="3" fill="{ACCENT}" '
                f'fill-opacity="{0.06 + 0.94 * share:.2f}"/>'
            )
            colour = "#ffffff" if share > 0.5 else INK
            parts.append(text(x + cell / 2 - 1, y + cell / 2 + 4, f"{value:g}", anchor="middle", size=13, fill=colour))
    width, height = left + cell * len(classes) + 14, top + cell * len(classes) + 10
    description = f"Patients by true class, in rows, and predicted class, in columns, of {len(classes)} classes."
    return svg(key, "Confusion matrix", description, width=width, height=height, body=parts)
