"""A histogram on public bins as inline SVG: areas are patients, dashed lines its quantiles."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from server.figures import ACCENT, GRID, INK, MUTED, Axis, nice, number, svg, text, ticks


def histogram(
    counts: Sequence[int], *, grid: Sequence[float], quantiles: Sequence[Mapping[str, Any]], name: str, key: str
) -> Markup:
    """Draw `counts` per bin of `grid` (one edge more), as patients per unit of `name`; quantiles that have an estimate."""
    width, height, left, bottom = 620.0, 300.0, 64.0, 248.0
    heights = [count / (high - low) for low, high, count in zip(grid, grid[1:], counts, strict=False)]
    x, y = Axis(grid[0], grid[-1], left, width - 20), Axis(0, 1.12 * max([1e-300, *heights]), bottom, 22)
    parts = ticks(grid[0], grid[-1], x, top=22, bottom=bottom)
    for value in nice(0, max([1e-300, *heights])):
        parts.append(f'<line x1="{left}" y1="{y(value):.1f}" x2="{width - 20}" y2="{y(value):.1f}" stroke="{GRID}"/>')
        parts.append(text(left - 8, y(value) + 4, f"{value:g}", anchor="end", size=11, fill=MUTED))
    for low, high, tall in zip(grid, grid[1:], heights, strict=False):
        parts.append(
            f'<rect x="{x(low):.1f}" y="{y(tall):.1f}" width="{x(high) - x(low):.1f}" height="{bottom - y(tall):.1f}" '
            f'fill="{ACCENT}" fill-opacity="0.75" stroke="#ffffff"/>'
        )
    shown = [at for one in quantiles if (at := number(one["estimate"])) is not None]
    for at in shown:
        parts.append(f'<line x1="{x(at):.1f}" y1="22" x2="{x(at):.1f}" y2="{bottom}" stroke="{INK}" stroke-dasharray="5 4"/>')
    parts.append(text(left, 14, "patients per unit", size=11.5, fill=MUTED))
    parts.append(text((left + width) / 2, bottom + 38, name, anchor="middle", size=12, fill=MUTED))
    description = (
        f"{sum(counts)} patients in {len(counts)} bins, areas are patients; {len(shown)} quantiles; the table has all."
    )
    return svg(key, f"Histogram of {name}", description, width=width, height=height, body=parts)
