"""Figures of the declared analyses as inline SVG: survival curves, clusters as densities; no point is a patient."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from server.figures import ACCENT, GRID, INK, MUTED, Axis, label_width, nice, svg, text, tick, ticks

COLOURS = (ACCENT, "#b35c00", "#5b3a8c", "#2c6fbb", "#8c2d4f", "#4d7c0f", "#6b5b4b", "#0f7c8c")
DENSITY_STEPS = 44


def survival(curves: Sequence[Mapping[str, Any]], *, names: Sequence[str], unit: str, end: float, key: str) -> Markup:
    """Draw Kaplan-Meier curves, each with its interval as a band; the numbers at risk are in the table."""
    width, height, left, bottom = 920.0, 340.0, 54.0, 290.0
    x, y = Axis(0, end, left, width - 150), Axis(0, 1, bottom, 18)
    parts = ticks(0, end, x, top=18, bottom=bottom)
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<line x1="{left}" y1="{y(value):.1f}" x2="{x(end):.1f}" y2="{y(value):.1f}" stroke="{GRID}"/>')
        parts.append(text(left - 8, y(value) + 4, tick(value), anchor="end", size=11, fill=MUTED))
    for at, (curve, name) in enumerate(zip(curves, names, strict=True)):
        colour, level = COLOURS[at % len(COLOURS)], 1.0
        line, low, high = [(0.0, 1.0)], [(0.0, 1.0)], [(0.0, 1.0)]
        ends = 1.0, 1.0
        for step in curve["steps"]:
            given = step["ci_low"], step["ci_high"]
            now = (ends[0], ends[1]) if None in given else given
            for path, before, after in ((line, level, step["survival"]), (low, ends[0], now[0]), (high, ends[1], now[1])):
                path += [(step["end"], before), (step["end"], after)]
            level, ends = step["survival"], now
        for path in (line, low, high):
            path.append((end, path[-1][1]))
        band = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in (*high, *reversed(low)))
        parts.append(f'<polygon points="{band}" fill="{colour}" fill-opacity="0.12"/>')
        drawn = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in line)
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="2.2"/>')
        parts.append(text(x(end) + 10, 30 + 18 * at, name, size=12, fill=colour, weight=600))
    parts.append(text((left + x(end)) / 2, bottom + 38, unit, anchor="middle", size=12, fill=MUTED))
    description = f"{len(curves)} survival curves with 95 % intervals, falling at the end of each interval; the table has all."
    return svg(key, "Kaplan-Meier", description, width=width, height=height, body=parts)


def forest(
    hospitals: Sequence[Mapping[str, Any]], combined: Sequence[Mapping[str, Any]], *, term: str, note: str, key: str
) -> Markup:
    """Draw one coefficient: hospitals' estimates as squares, their area by their weight, and combined ones as diamonds.

    Rows hold name, estimate, low, high; hospitals also weight. An estimate of None is a hospital that does not show it.
    """
    line, top, width = 28.0, 14.0, 920.0
    names = [str(row["name"]) for row in (*hospitals, *combined)]
    left = label_width(names) * 1.15  # the combined ones are bold
    ends = [0.0, *(row[end] for row in (*hospitals, *combined) if row["estimate"] is not None for end in ("low", "high"))]
    margin = (max(ends) - min(ends)) * 0.06 or 1.0
    at = Axis(min(ends) - margin, max(ends) + margin, left, width - 20)
    bottom = top + line * len(names)
    parts = ticks(min(ends) - margin, max(ends) + margin, at, top=top - 4, bottom=bottom)
    parts.append(f'<line x1="{at(0):.1f}" y1="{top - 4}" x2="{at(0):.1f}" y2="{bottom}" stroke="{INK}" stroke-width="1.2"/>')
    most = max((row["weight"] for row in hospitals if row["estimate"] is not None), default=1.0)
    for i, row in enumerate(hospitals):
        y = top + line * (i + 0.5)
        parts.append(text(left - 10, y + 4, str(row["name"]), anchor="end", size=12.5))
        if row["estimate"] is None:
            parts.append(text(left + 8, y + 4, "not shown", size=11.5, fill=MUTED))
            continue
        half = 3 + 5 * math.sqrt(row["weight"] / most)
        x, ends_ = at(row["estimate"]), (at(row["low"]), at(row["high"]))
        parts.append(
            f'<line x1="{ends_[0]:.1f}" y1="{y:.1f}" x2="{ends_[1]:.1f}" y2="{y:.1f}" stroke="{MUTED}" stroke-width="2"/>'
        )
        parts.append(
            f'<rect x="{x - half:.1f}" y="{y - half:.1f}" width="{2 * half:.1f}" height="{2 * half:.1f}" fill="{ACCENT}"/>'
        )
    for i, row in enumerate(combined):
        y = top + line * (len(hospitals) + i + 0.5)
        parts.append(text(left - 10, y + 4, str(row["name"]), anchor="end", size=12.5, weight=600))
        corners = [(at(row["low"]), y), (at(row["estimate"]), y - 8), (at(row["high"]), y), (at(row["estimate"]), y + 8)]
        drawn = " ".join(f"{a:.1f},{b:.1f}" for a, b in corners)
        parts.append(f'<polygon points="{drawn}" fill="{ACCENT}" fill-opacity="0.75" stroke="{ACCENT}"/>')
    parts.append(
        text(
            (left + width - 20) / 2,
            bottom + 36,
            f"change per unit of {term}; {note}",
            anchor="middle",
            size=12,
            fill=MUTED,
            most=130,
        )
    )
    shown = sum(row["estimate"] is not None for row in hospitals)
    description = f"{term}: {shown} hospitals that show their estimate, {len(combined)} combined; the numbers are in the table."
    return svg(key, f"Forest plot of {term}", description, width=width, height=bottom + 46, body=parts)


def clusters(groups: Sequence[Mapping[str, Any]], *, axes: tuple[str, str], key: str) -> Markup:
    """Draw clusters as Gaussian densities in a plane: `groups` hold centre (2,), spread (2, 2) and share.

    The densities come from sums (centres, spreads), never from patients.
    """
    centre = np.array([group["centre"] for group in groups])
    spread = np.array([group["spread"] for group in groups])
    reach = 2.6 * np.sqrt(np.array([np.diag(one) for one in spread]))
    low, high = (centre - reach).min(axis=0), (centre + reach).max(axis=0)
    size, left, top = 420.0, 52.0, 12.0
    x, y = Axis(low[0], high[0], left, left + size), Axis(low[1], high[1], top + size, top)
    parts = ticks(float(low[0]), float(high[0]), x, top=top, bottom=top + size)
    for value in nice(float(low[1]), float(high[1])):
        parts.append(f'<line x1="{left}" y1="{y(value):.1f}" x2="{left + size}" y2="{y(value):.1f}" stroke="{GRID}"/>')
        parts.append(text(left - 8, y(value) + 4, tick(value), anchor="end", size=11, fill=MUTED))
    middles = [low + (high - low) * (at + 0.5) / DENSITY_STEPS for at in range(DENSITY_STEPS)]
    grid = np.array([[(a[0], b[1]) for a in middles] for b in middles])
    side = size / DENSITY_STEPS
    for at, group in enumerate(groups):
        off = grid - centre[at]
        precision = np.linalg.inv(spread[at])
        height = group["share"] * np.exp(-0.5 * np.einsum("abi,ij,abj->ab", off, precision, off))
        height /= math.sqrt(float(np.linalg.det(spread[at])))
        height /= height.max() or 1.0
        colour = COLOURS[at % len(COLOURS)]
        for row, column in np.argwhere(height > 0.06).tolist():
            place = x(float(middles[column][0])) - side / 2, y(float(middles[row][1])) - side / 2
            parts.append(
                f'<rect x="{place[0]:.1f}" y="{place[1]:.1f}" width="{side:.1f}" height="{side:.1f}" fill="{colour}" '
                f'fill-opacity="{0.55 * height[row, column]:.2f}"/>'
            )
        parts.append(
            text(x(float(centre[at][0])), y(float(centre[at][1])) + 4, str(at + 1), anchor="middle", fill=INK, weight=700)
        )
    parts.append(text(left + size / 2, top + size + 38, axes[0], anchor="middle", size=12, fill=MUTED, most=60))
    turned = (-90, 12.0, top + size / 2)
    parts.append(text(12, top + size / 2, axes[1], anchor="middle", size=12, fill=MUTED, rotate=turned, most=60))
    description = f"{len(groups)} clusters as densities in a plane, made from their sums; the centres are in the table."
    return svg(key, "Clusters", description, width=left + size + 14, height=top + size + 48, body=parts)
