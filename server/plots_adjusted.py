"""Figure of adjusted means as inline SVG: a mean and its interval per group; no point is a patient."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from server.figures import ACCENT, MUTED, Axis, label_width, svg, text, ticks


def adjusted(means: Sequence[Mapping[str, Any]], *, outcome: str, of: str, key: str) -> Markup:
    """Draw adjusted means with their 95 % intervals; `means` hold level, mean, ci_low and ci_high."""
    left, width, line = label_width([str(one["level"]) for one in means]), 920.0, 34.0
    low, high = min(one["ci_low"] for one in means), max(one["ci_high"] for one in means)
    margin = (high - low) * 0.06 or 1.0
    at = Axis(low - margin, high + margin, left, width - 20)
    bottom = 12 + line * len(means)
    parts = ticks(low - margin, high + margin, at, top=8, bottom=bottom)
    for i, one in enumerate(means):
        y = 12 + line * (i + 0.5)
        parts.append(text(left - 10, y + 4, str(one["level"]), anchor="end", size=12.5))
        parts.append(
            f'<line x1="{at(one["ci_low"]):.1f}" y1="{y:.1f}" x2="{at(one["ci_high"]):.1f}" y2="{y:.1f}" stroke="{ACCENT}" '
            f'stroke-width="2.4" stroke-linecap="round"/>'
        )
        parts.append(f'<circle cx="{at(one["mean"]):.1f}" cy="{y:.1f}" r="5" fill="{ACCENT}"/>')
    label = f"{outcome}, adjusted mean by {of}"
    parts.append(text((left + width - 20) / 2, bottom + 36, label, anchor="middle", size=12, fill=MUTED, most=110))
    return svg(
        key,
        f"Adjusted means of {outcome} by {of}",
        f"{len(means)} means with 95 % intervals, all else held equal. The numbers are in the table below.",
        width=width,
        height=bottom + 46,
        body=parts,
    )
