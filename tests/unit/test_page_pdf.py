"""The page as PDF/A: what it must hold is read back, and twice made it is the same bytes."""

import io
import json
import struct
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from fontTools.ttLib import TTFont
from pypdf import PdfReader

from common.audit import bundle, page, page_pdf, report, verify
from tests import ledgers
from tests.ledgers import GRAM, Ask, share

PDFAID = "{http://www.aiim.org/pdfa/ns/id/}"


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pdf")
    with ledgers.create(folder / "ledger.sqlite") as ledger:
        for number, mechanism in enumerate((GRAM, share(), share()), start=1):
            ledger.release(Ask(number=number, mechanism=mechanism).to(ledger), sha256="a" * 64, size_bytes=1)
        ledgers.export(folder / "aalen.zip", ledger)
    read = bundle.read(folder / "aalen.zip")
    return report.facts(read, verify.verify(read, roster_hash=None))


def made(facts, language):
    said = page.page(facts, language=language)
    return page_pdf.render(said, record=report.plain(facts), name="aalen.json", stamp=facts.values["last_entry"])


@pytest.fixture(scope="module", params=page.LANGUAGES)
def pdf(request, facts):
    return request.param, made(facts, request.param)


def test_the_page_is_the_same_bytes_every_time(pdf, facts):
    language, data = pdf
    assert made(facts, language) == data


def test_the_record_is_inside_as_the_data_of_the_page(pdf, facts):
    root = PdfReader(io.BytesIO(pdf[1])).trailer["/Root"]
    (file,) = root["/AF"]
    held = file["/EF"]["/F"]
    assert held.get_data() == report.plain(facts)
    assert (file["/AFRelationship"], held["/Subtype"], file["/UF"]) == ("/Data", "/application/json", "aalen.json")
    assert root["/Names"]["/EmbeddedFiles"]["/Names"][1] == file  # where older programs look


def test_it_says_that_it_is_pdf_a_3b_and_what_its_colours_mean(pdf, facts):
    language, data = pdf
    reader = PdfReader(io.BytesIO(data))
    root = reader.trailer["/Root"]
    metadata = root["/Metadata"]
    told = {
        each.tag.removeprefix(PDFAID): each.text for each in ET.fromstring(metadata.get_data()).iter() if PDFAID in each.tag
    }
    assert told == {"part": "3", "conformance": "B"}
    assert "/Filter" not in metadata  # a program that knows no PDF finds it
    assert facts.values["last_entry"].encode() in metadata.get_data()
    (intent,) = root["/OutputIntents"]
    profile = intent["/DestOutputProfile"]
    assert (intent["/S"], profile["/N"], profile.get_data()[36:40]) == ("/GTS_PDFA1", 3, b"acsp")
    assert struct.unpack(">I", profile.get_data()[:4])[0] == len(profile.get_data())
    assert root["/Lang"] == language
    assert len(reader.trailer["/ID"]) == 2
    assert "/Encrypt" not in reader.trailer
    assert not {"/JavaScript", "/OpenAction", "/AA", "/AcroForm"} & set(root)


def test_the_curve_has_room_of_its_own(pdf):
    """Its labels lie below the title of its section, and the next section begins below the labels."""
    for one in PdfReader(io.BytesIO(pdf[1])).pages:
        texts = []
        one.extract_text(visitor_text=lambda text, at, *_, held=texts: held.append((text.strip(), at[1], at[5])))
        texts = [text for text in texts if text[0]]
        upwards = [at for at, (_, turned, _) in enumerate(texts) if turned]
        if upwards:
            break
    title = next(at for at, (text, _, _) in enumerate(texts) if text in {"Burn-down", "预算消耗"})
    heights = [height for _, _, height in texts]
    drawn = heights[title + 1 : upwards[-1] + 1]
    assert len(drawn) > 8
    assert min(heights[:title]) > heights[title] > max(drawn)
    assert min(drawn) > max(heights[upwards[-1] + 1 :], default=0)


def test_every_font_is_embedded_as_pdf_a_asks(pdf):
    reader = PdfReader(io.BytesIO(pdf[1]))
    fonts = {name: font for one in reader.pages for name, font in one["/Resources"]["/Font"].items()}
    assert fonts
    for font in fonts.values():
        described = font["/FontDescriptor"]
        assert described["/FontFile2"].get_data()[:4] == b"\x00\x01\x00\x00"
        assert described["/Flags"] & 4  # symbolic: then no /Encoding may be there
        assert "/Encoding" not in font
        program = TTFont(io.BytesIO(described["/FontFile2"].get_data()))
        widths = [1000 * program["hmtx"][name][0] / program["head"].unitsPerEm for name in program.getGlyphOrder()]
        codes = program["cmap"].getcmap(1, 0).cmap  # the only table, so that no program can choose another
        assert len(program["cmap"].tables) == 1
        for code, name in codes.items():
            assert abs(widths[program.getGlyphID(name)] - font["/Widths"][code]) <= 1
        assert "/ToUnicode" in font
        assert len(font["/Widths"]) == font["/LastChar"] - font["/FirstChar"] + 1


def test_the_words_of_the_page_can_be_read_out_of_it(pdf, facts):
    language, data = pdf
    text = "".join("".join(one.extract_text() for one in PdfReader(io.BytesIO(data)).pages).split())
    for wanted in (facts.values["root"], facts.values["rdp"], {"en": "Whoisprotected", "zh": "受保护的对象"}[language]):
        assert wanted in text
    assert page_pdf.UNKNOWN not in text  # no letter of the page is missing in the fonts


def test_a_command_that_is_copied_is_one_command(pdf, facts):
    """No line of a command is wrapped, but where a backslash says that it goes on."""
    said = page.page(facts, language=pdf[0])
    (commands,) = [one for section in said.sections for one in section.blocks if isinstance(one, page.Commands)]
    wanted = [line.strip() for line in commands.text.split("\n")]
    seen = [line.strip() for one in PdfReader(io.BytesIO(pdf[1])).pages for line in one.extract_text().split("\n")]
    at = seen.index(wanted[0])
    assert seen[at : at + len(wanted)] == wanted
    assert f"--roster-hash {facts.values['roster']}" in wanted
    assert wanted[wanted.index(f"--roster-hash {facts.values['roster']}") - 1] == "motet-audit verify aalen.bundle.zip \\"


def test_below_a_table_there_is_room(pdf):
    table = page_pdf._table(page.Table(titles=("a",), rows=(("b",),)))
    assert table.getSpaceAfter() >= 4


def test_where_the_third_accountant_has_no_number_the_page_says_so(facts):
    values = {**facts.values, "prv": None}
    for language, says in (("en", "no number"), ("zh", "不给出数值")):
        said = page.page(report.Facts(hospital=facts.hospital, values=values), language=language)
        texts = [one.text for section in said.sections for one in section.blocks if isinstance(one, page.Paragraph)]
        assert any(says in text for text in texts)


def test_the_chinese_font_has_every_letter_of_the_messages():
    texts = Path(page.__file__).with_name("messages.json").read_text()
    latin, han = page_pdf.fonts()
    missing = {letter for letter in texts if letter.isprintable()} - {chr(code) for code in latin | han}
    assert not missing, f"make the font again as common/audit/fonts/README.md says: {missing}"


def test_a_letter_that_no_font_has_is_a_question_mark_and_markup_is_text():
    odd = page.Page(
        language="en",
        title="a <b>\N{SNOWMAN}</b> & `c`",
        sections=(page.Section(title="t", blocks=(page.Commands(text="x < y"), page.Items(texts=("one & two",)))),),
        footer="end",
    )
    data = page_pdf.render(odd, record=json.dumps({}).encode(), name="x.json", stamp="2026-01-01T00:00:00Z")
    assert "a <b>?</b> & c" in PdfReader(io.BytesIO(data)).pages[0].extract_text()
