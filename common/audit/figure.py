"""A curve with labelled axes as plain lines and texts, which HTML and PDF draw alike."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

WIDTH: Final = 640
HEIGHT: Final = 240
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 24, 48
TICKS_MOST: Final = 5
SMALLEST: Final = 1e-6  # of the axis' end

Style = Literal["axis", "grid", "limit", "curve"]
Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A polyline; x to the right, y downwards, in units of which the figure has WIDTH by HEIGHT."""

    points: tuple[tuple[float, float], ...]
    style: Style


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A text whose baseline is at y; `upwards` turns it by a right angle."""

    x: float
    y: float
    text: str
    anchor: Anchor
    upwards: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What is drawn, a title for those who do not see it, and its numbers in a sentence."""

    title: str
    description: str
    lines: tuple[Line, ...]
    labels: tuple[Label, ...]


def curve(
    points: Sequence[tuple[int, float]],
    *,
    limit: float,
    title: str,
    description: str,
    x_label: str,
    y_label: str,
    limit_label: str,
) -> Figure:
    """Return a curve that starts at (0, 0), below a limit; `points` are at least one, with growing x."""
    right, top = points[-1][0], max(limit, SMALLEST, *(y for _, y in points)) * 1.05
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        return round(LEFT + wide * x / right, 1), round(TOP + high * (1 - y / top), 1)

    lines, labels = [], []
    for y in _ticks(top):
        lines.append(Line(points=(at(0, y), at(right, y)), style="grid"))
        labels.append(Label(x=LEFT - 8, y=at(0, y)[1] + 4, text=f"{y:g}", anchor="end"))
    labels += [
        Label(x=at(x, 0)[0], y=TOP + high + 18, text=str(x), anchor="middle")
        for x in sorted({*(round(tick) for tick in _ticks(right)), right})
        if x == right or right - x > right / 12  # no tick under the last one
    ]
    lines += [
        Line(points=(at(0, top), at(0, 0), at(right, 0)), style="axis"),
        Line(points=(at(0, limit), at(right, limit)), style="limit"),
        Line(points=tuple(at(*point) for point in [(0, 0.0), *points]), style="curve"),
    ]
    labels += [
        Label(x=LEFT + wide, y=at(0, limit)[1] - 6, text=limit_label, anchor="end"),
        Label(x=LEFT + wide / 2, y=HEIGHT - 8, text=x_label, anchor="middle"),
        Label(x=16, y=TOP + high / 2, text=y_label, anchor="middle", upwards=True),
    ]
    return Figure(title=title, description=description, lines=tuple(lines), labels=tuple(labels))


def _ticks(top: float) -> list[float]:
    """Return round numbers from 0 to `top`, a few of them."""
    step = 10.0 ** math.floor(math.log10(top))
    while top / step > TICKS_MOST:
        step *= 2
    while top / step < TICKS_MOST / 2:
        step /= 2
    return [number * step for number in range(math.floor(top / step) + 1)]
