"""The page as PDF/A-3b with the record inside: every font embedded, nothing foreign; the same facts give the same bytes.

Streams are not compressed: what a compressor writes depends on its version. Source: ISO 19005-3 (PDF/A-3), level B.
"""

import hashlib
import html
import io
import re
from functools import cache
from pathlib import Path
from typing import Any, Final

from pypdf import PdfReader, PdfWriter
from pypdf.generic import (
    ArrayObject,
    ByteStringObject,
    DecodedStreamObject,
    DictionaryObject,
    NameObject,
    NumberObject,
    StreamObject,
    TextStringObject,
)

from common.audit import figure
from common.audit.figure import Figure, Label, Line
from common.audit.page import Block, Commands, Items, Page, Paragraph, Table

LATIN, BOLD, HAN = "MotetLatin", "MotetLatinBold", "MotetHan"
FONTS: Final = Path(__file__).with_name("fonts")
MARGIN: Final = 54.0  # points
LABEL_SIZE: Final = 12
UNKNOWN: Final = "?"  # for a letter that no embedded font has
PRODUCER: Final = "motet-audit"
COLOURS: Final = {"axis": (0.2, 0.2, 0.2), "grid": (0.88, 0.88, 0.88), "limit": (0.7, 0.0, 0.0), "curve": (0.0, 0.2, 0.4)}
ICC_VERSION: Final = slice(8, 12)  # of the profile's header
ICC_DATE: Final = slice(24, 36)  # when it was made


def render(page: Page, *, record: bytes, name: str, stamp: str) -> bytes:
    """Return the page as PDF/A-3b; `record` is attached as `name`, as the data that the page shows.

    `stamp`: YYYY-MM-DDTHH:MM:SSZ, the date of page and record. A letter that neither font has becomes a question mark.
    """
    return _dress(_lay_out(page), page=page, record=record, name=name, stamp=stamp)


def _lay_out(page: Page) -> bytes:
    from reportlab.lib.pagesizes import A4  # noqa: PLC0415  (half a second)
    from reportlab.platypus import SimpleDocTemplate  # noqa: PLC0415

    flow: list[Any] = [_paragraph(page.title, size=16, font=BOLD, after=6)]
    for section in page.sections:
        flow.append(_paragraph(section.title, size=11.5, font=BOLD, before=8, keep=True))
        flow += [part for block in section.blocks for part in _block(block)]
    flow.append(_paragraph(page.footer, size=7.5, before=14))
    out = io.BytesIO()
    document = SimpleDocTemplate(
        out,
        pagesize=A4,
        leftMargin=MARGIN,
        rightMargin=MARGIN,
        topMargin=MARGIN,
        bottomMargin=MARGIN,
        invariant=1,
        pageCompression=0,
        initialFontName=LATIN,
        title=page.title,
        lang=page.language,
    )
    document.build(flow)
    return out.getvalue()


def _block(block: Block) -> list[Any]:
    match block:
        case Paragraph():
            return [_paragraph(block.text, size=11 if block.big else 9)]
        case Items():
            return [_paragraph(f"\N{BULLET} {text}", size=9, indent=10) for text in block.texts]
        case Commands():
            return [_paragraph(line, size=7.5, indent=10) for line in block.text.split("\n")]
        case Table():
            return [_table(block)]
        case Figure():
            return [_drawing(block)]


def _paragraph(
    text: str, *, size: float, font: str = LATIN, before: float = 0, after: float = 3, indent: float = 0, keep: bool = False
) -> Any:  # noqa: ANN401  (reportlab has no types)
    from reportlab.lib.styles import ParagraphStyle  # noqa: PLC0415
    from reportlab.platypus import Paragraph as Flowing  # noqa: PLC0415

    fonts()
    han = any(font == HAN for font, _ in _runs(text))
    style = ParagraphStyle(
        "page",
        fontName=font,
        fontSize=size,
        leading=size * 1.4,
        spaceBefore=before,
        spaceAfter=after,
        leftIndent=indent,
        bulletFontName=font,
        keepWithNext=int(keep),
        wordWrap="CJK" if han else None,
        splitLongWords=1,
    )
    return Flowing(_marked(text), style)


def _table(table: Table) -> Any:  # noqa: ANN401
    from reportlab.platypus import Table as Grid  # noqa: PLC0415
    from reportlab.platypus import TableStyle  # noqa: PLC0415

    rows = [[_paragraph(title, size=8, font=BOLD, after=0) for title in table.titles]]
    rows += [[_paragraph(cell, size=8, after=0) for cell in row] for row in table.rows]
    whole = ((0, 0), (-1, -1))
    rules = [("LINEBELOW", *whole, 0.4, (0.8, 0.8, 0.8)), ("FONT", *whole, LATIN, 8), ("VALIGN", *whole, "TOP")]
    widths = [f"{100 / len(table.titles):.3f}%"] * len(table.titles)
    return Grid(rows, colWidths=widths, hAlign="LEFT", style=TableStyle(rules), repeatRows=1, spaceAfter=6)


def _drawing(drawn: Figure) -> Any:  # noqa: ANN401
    from reportlab.lib.pagesizes import A4  # noqa: PLC0415
    from reportlab.platypus import Flowable  # noqa: PLC0415

    fonts()
    scale = (A4[0] - 2 * MARGIN - 12) / figure.WIDTH  # 12: the frame's own padding
    flowing = Flowable()

    def draw() -> None:
        flowing.canv.scale(scale, scale)
        for line in drawn.lines:
            _draw_line(flowing.canv, line)
        for label in drawn.labels:
            _draw_label(flowing.canv, label)

    flowing.wrap = lambda _width, _height: (figure.WIDTH * scale, figure.HEIGHT * scale)  # room of its own, below the text
    flowing.draw = draw
    return flowing


def _draw_line(canvas: Any, line: Line) -> None:  # noqa: ANN401
    canvas.setStrokeColorRGB(*COLOURS[line.style])
    canvas.setLineWidth(2 if line.style == "curve" else 1)
    canvas.setDash([6, 4] if line.style == "limit" else [])
    path = canvas.beginPath()
    for at, (x, y) in enumerate(line.points):
        (path.lineTo if at else path.moveTo)(x, figure.HEIGHT - y)
    canvas.drawPath(path)


def _draw_label(canvas: Any, label: Label) -> None:  # noqa: ANN401
    from reportlab.pdfbase.pdfmetrics import stringWidth  # noqa: PLC0415

    runs = _runs(label.text)
    widths = [float(stringWidth(text, font, LABEL_SIZE)) for font, text in runs]
    left = {"start": 0.0, "middle": -sum(widths) / 2, "end": -sum(widths)}[label.anchor]
    canvas.saveState()
    canvas.translate(label.x, figure.HEIGHT - label.y)
    canvas.rotate(90 if label.upwards else 0)
    for (font, text), width in zip(runs, widths, strict=True):
        canvas.setFont(font, LABEL_SIZE)
        canvas.drawString(left, 0, text)
        left += width
    canvas.restoreState()


def _marked(text: str) -> str:
    """Return text as reportlab's markup: each run in the font that has its letters."""
    bare = re.sub(r"`([^`]+)`", r"\1", text)
    return "".join(
        f'<font name="{HAN}">{html.escape(part)}</font>' if font == HAN else html.escape(part) for font, part in _runs(bare)
    )


def _runs(text: str) -> list[tuple[str, str]]:
    latin, han = fonts()
    runs: list[tuple[str, str]] = []
    for letter in text:
        code = ord(letter)
        font = LATIN if code in latin or code == 0xA0 else HAN
        shown = letter if font == LATIN or code in han else UNKNOWN
        font = LATIN if shown == UNKNOWN else font
        if runs and runs[-1][0] == font:
            runs[-1] = (font, runs[-1][1] + shown)
        else:
            runs.append((font, shown))
    return runs


@cache
def fonts() -> tuple[frozenset[int], frozenset[int]]:
    """Register the fonts; return the letters that the Latin and the Chinese one have."""
    import reportlab  # noqa: PLC0415
    from reportlab.pdfbase import pdfmetrics  # noqa: PLC0415
    from reportlab.pdfbase.ttfonts import TTFont  # noqa: PLC0415

    own = Path(reportlab.__file__).parent / "fonts"
    files = {LATIN: own / "Vera.ttf", BOLD: own / "VeraBd.ttf", HAN: FONTS / "han.ttf"}
    found = {name: TTFont(name, str(path), asciiReadable=False) for name, path in files.items()}
    for font in found.values():
        pdfmetrics.registerFont(font)
    latin, bold, han = (frozenset(found[name].face.charToGlyph) for name in (LATIN, BOLD, HAN))
    return latin & bold, han


def _dress(laid_out: bytes, *, page: Page, record: bytes, name: str, stamp: str) -> bytes:
    """Return the document with what PDF/A asks for: metadata, the meaning of its colours, the attached record."""
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(laid_out)))
    writer.pdf_header = "%PDF-1.7"
    for at, held in enumerate(writer._objects):  # noqa: SLF001  (pypdf has no other way to every object)
        if isinstance(held, StreamObject):
            writer._objects[at] = _plain_stream(held)  # noqa: SLF001
    date = TextStringObject(f"D:{re.sub('[^0-9]', '', stamp)}Z")
    attached = _stream(
        record,
        Type=NameObject("/EmbeddedFile"),
        Subtype=NameObject("/application/json"),
        Params=DictionaryObject({NameObject("/ModDate"): date, NameObject("/Size"): NumberObject(len(record))}),
    )
    file = writer._add_object(attached)  # noqa: SLF001
    specification = _dictionary(
        Type=NameObject("/Filespec"),
        F=TextStringObject(name),
        UF=TextStringObject(name),
        Desc=TextStringObject(page.footer),
        AFRelationship=NameObject("/Data"),
        EF=_dictionary(F=file, UF=file),
    )
    place = writer._add_object(specification)  # noqa: SLF001
    intent = _dictionary(
        Type=NameObject("/OutputIntent"),
        S=NameObject("/GTS_PDFA1"),
        OutputConditionIdentifier=TextStringObject("sRGB"),
        Info=TextStringObject("sRGB"),
        DestOutputProfile=writer._add_object(_stream(_srgb(), N=NumberObject(3))),  # noqa: SLF001
    )
    metadata = _stream(_xmp(page, stamp=stamp), Type=NameObject("/Metadata"), Subtype=NameObject("/XML"))
    writer.root_object.update(
        _dictionary(
            Lang=TextStringObject(page.language),
            Metadata=writer._add_object(metadata),  # noqa: SLF001
            OutputIntents=ArrayObject([writer._add_object(intent)]),  # noqa: SLF001
            AF=ArrayObject([place]),
            Names=_dictionary(EmbeddedFiles=_dictionary(Names=ArrayObject([TextStringObject(name), place]))),
        )
    )
    writer.metadata = {"/Title": page.title, "/Producer": PRODUCER, "/CreationDate": str(date), "/ModDate": str(date)}
    digest = ByteStringObject(hashlib.sha256(laid_out + record).digest()[:16])
    writer._ID = ArrayObject([digest, digest])  # noqa: SLF001
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def _plain_stream(held: StreamObject) -> StreamObject:
    kept = {key: value for key, value in held.items() if key not in {"/Filter", "/DecodeParms", "/Length"}}
    plain = DecodedStreamObject()
    plain.update(kept)
    plain.set_data(held.get_data())
    return plain


def _stream(data: bytes, **entries: Any) -> StreamObject:  # noqa: ANN401
    stream = DecodedStreamObject()
    stream.update(_dictionary(**entries))
    stream.set_data(data)
    return stream


def _dictionary(**entries: Any) -> DictionaryObject:  # noqa: ANN401
    return DictionaryObject({NameObject(f"/{name}"): value for name, value in entries.items()})


def _srgb() -> bytes:
    """Return the ICC profile of sRGB, without the time at which it was made."""
    from PIL import ImageCms  # noqa: PLC0415

    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[ICC_VERSION] = bytes.fromhex("0420 0000")  # what it holds is in 4.2, the newest that PDF 1.7 knows
    profile[ICC_DATE] = bytes.fromhex("07d0 0001 0001 0000 0000 0000")
    return bytes(profile)


def _xmp(page: Page, *, stamp: str) -> bytes:
    title, language = html.escape(page.title), page.language
    return (
        '<?xpacket begin="\N{ZERO WIDTH NO-BREAK SPACE}" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
        '<rdf:Description rdf:about="" xmlns:pdfaid="http://www.aiim.org/pdfa/ns/id/">'
        "<pdfaid:part>3</pdfaid:part><pdfaid:conformance>B</pdfaid:conformance></rdf:Description>\n"
        '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:format>application/pdf</dc:format>'
        f'<dc:title><rdf:Alt><rdf:li xml:lang="x-default">{title}</rdf:li></rdf:Alt></dc:title>'
        f"<dc:language><rdf:Bag><rdf:li>{language}</rdf:li></rdf:Bag></dc:language></rdf:Description>\n"
        '<rdf:Description rdf:about="" xmlns:pdf="http://ns.adobe.com/pdf/1.3/">'
        f"<pdf:Producer>{PRODUCER}</pdf:Producer></rdf:Description>\n"
        '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/">'
        f"<xmp:CreateDate>{stamp}</xmp:CreateDate><xmp:ModifyDate>{stamp}</xmp:ModifyDate></rdf:Description>\n"
        '</rdf:RDF></x:xmpmeta>\n<?xpacket end="w"?>'
    ).encode()
