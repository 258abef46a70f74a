"""The page as one HTML file: no script, no image, no address; the same facts give the same bytes."""

import html
import re
from typing import Final

from common.audit import figure
from common.audit.figure import Figure, Label, Line
from common.audit.page import Block, Commands, Items, Page, Paragraph, Table

STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#111}"
    "body{overflow-wrap:break-word}"
    "h1{font-size:1.5rem}h2{font-size:1.05rem;margin:1.4rem 0 .3rem}"
    "table{border-collapse:collapse;display:block;max-width:100%;overflow-x:auto}"
    "td,th{padding:.15rem .8rem .15rem 0;text-align:left;border-bottom:1px solid #ddd}"
    "code,pre{font:12px ui-monospace,monospace;overflow-wrap:anywhere;white-space:pre-wrap}footer{margin-top:2rem;color:#555}"
    ".big{font-size:1.2rem}@media print{body{margin:0}}"
)
STROKES: Final = {
    "axis": 'stroke="#333"',
    "grid": 'stroke="#e2e2e2"',
    "limit": 'stroke="#b00" stroke-dasharray="6 4"',
    "curve": 'stroke="#036" stroke-width="2"',
}


def render(page: Page) -> str:
    """Return the page."""
    sections = [
        f"<section><h2>{_text(section.title)}</h2>{''.join(map(_block, section.blocks))}</section>" for section in page.sections
    ]
    parts = [f"<h1>{_text(page.title)}</h1>", *sections, f"<footer>{_text(page.footer)}</footer>"]
    head = f'<meta charset="utf-8"><title>{_text(page.title)}</title><style>{STYLE}</style>'
    return (
        f'<!doctype html>\n<html lang="{page.language}"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"
    )


def _block(block: Block) -> str:
    match block:
        case Paragraph():
            return f'<p class="big">{_spoken(block.text)}</p>' if block.big else f"<p>{_spoken(block.text)}</p>"
        case Items():
            return "<ul>" + "".join(f"<li>{_spoken(one)}</li>" for one in block.texts) + "</ul>"
        case Table():
            head = "".join(f"<th>{_text(title)}</th>" for title in block.titles)
            body = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in block.rows)
            return f"<table><tr>{head}</tr>{body}</table>"
        case Commands():
            return f"<pre>{_text(block.text)}</pre>"
        case Figure():
            return _svg(block)


def _svg(drawn: Figure) -> str:
    return (
        f'<svg viewBox="0 0 {figure.WIDTH} {figure.HEIGHT}" role="img" width="100%"><title>{_text(drawn.title)}</title>'
        f"<desc>{_text(drawn.description)}</desc>{''.join(map(_line, drawn.lines))}{''.join(map(_label, drawn.labels))}</svg>"
    )


def _line(line: Line) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in line.points)
    return f'<polyline points="{points}" fill="none" {STROKES[line.style]}/>'


def _label(label: Label) -> str:
    turned = f' transform="rotate(-90 {label.x:.1f} {label.y:.1f})"' if label.upwards else ""
    place = f'x="{label.x:.1f}" y="{label.y:.1f}" font-size="12" text-anchor="{label.anchor}"'
    return f"<text {place}{turned}>{_text(label.text)}</text>"


def _spoken(text: str) -> str:
    """Return text as HTML, with what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", _text(text))


def _text(text: str) -> str:
    return html.escape(text)
