"""Reports: everything escaped, nothing loaded, pictures that say what they show, in light and dark."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from rankdistill import pictures
from rankdistill.document import Document
from rankdistill.pictures import Curve, Panel, Picture, Point, draw_costs, draw_panels, plain

NASTY = "<script>alert('x')</script> & \"quoted\" | [a](b)"


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def document():
    page = Document(NASTY)
    page.heading(NASTY)
    page.text(NASTY)
    page.table([["model", NASTY], [NASTY, "0.5"]], NASTY)
    curves = [
        Curve(NASTY.replace("$", ""), [(0, 0.1), (5, 0.3)], 0),
        Curve("published", [(0, 0.2)], 0, dashed=True),
    ]
    page.picture(
        draw_panels("curves", NASTY, [Panel("one", curves), Panel("two", curves[:1])], "epoch", "recall")
    )
    points = [
        Point(label, {"parameters": 10.0**at, "ms": 0.2 * at + 0.1}, 0.1 * at)
        for at, label in enumerate("abcdefghij")
    ]
    page.picture(draw_costs("costs", "costs of ten", points, "recall"))
    return page


def test_every_text_is_escaped(document):
    html = document.as_html()
    page = Page(html)
    assert not page.open
    assert "script" not in {tag for tag, _ in page.tags}
    assert (
        page.text.count(NASTY) == 8
    )  # title twice, heading, paragraph, caption, two cells, the picture's words
    assert [a["aria-label"] for tag, a in page.tags if a.get("role") == "region"] == [NASTY]
    markdown = document.as_markdown()
    assert "<script" not in markdown
    table = next(line for line in markdown.splitlines() if line.endswith("| 0.5 |") or "0.5" in line)
    assert len(re.findall(r"(?<!\\)\|", table)) == 3, "a bar in a cell is no border"


def test_nothing_is_loaded_from_elsewhere(document):
    page = Page(document.as_html())
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "img", "iframe", "object", "style") or tag == "style"
        for name, value in attributes.items():
            if name in ("href", "xlink:href", "src"):
                assert value.startswith("#"), (tag, value)
            elif not name.startswith("xmlns"):
                assert "://" not in (value or ""), (tag, name, value)
    style = document.as_html().partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style


def test_pictures_have_words_and_their_own_names(document):
    page = Page(document.as_html())
    drawings = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert [d["role"] for d in drawings] == ["img", "img"]
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))
    assert {d["aria-labelledby"] for d in drawings} <= set(names)
    used = {a.get("xlink:href", "")[1:] for tag, a in page.tags if tag == "use"}
    used |= set(re.findall(r"url\(#([^)]+)\)", document.as_html()))
    assert used
    assert used <= set(names)
    (drawn, *_) = (part for part in document.parts if isinstance(part, Picture))
    with pytest.raises(ValueError, match=f"got two of the name {drawn.name}"):
        document.picture(drawn)  # its file would take the place of the other's


def test_pictures_take_the_colour_of_the_page(document):
    html = document.as_html()
    assert pictures.INK not in html
    assert "currentColor" in html
    assert "#000000" not in html
    assert "#ffffff" not in html.partition("</style>")[2]


def test_the_same_report_is_the_same_bytes(document, tmp_path):
    document.write(tmp_path, "report")
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(first) == {"report.md", "report.html", "curves.png", "costs.png"}
    assert first["curves.png"].startswith(b"\x89PNG")
    document.write(tmp_path, "report")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first


def test_without_matplotlib_there_is_no_picture_but_a_word_of_it(monkeypatch, caplog):
    monkeypatch.setattr(pictures, "has_matplotlib", lambda: False)
    page = Document("plain")
    with caplog.at_level("INFO", logger="rankdistill"):
        page.picture(draw_panels("curves", "alt", [Panel("one", [])], "epoch", "recall"))
        page.picture(draw_costs("costs", "alt", [Point("a", {"parameters": 1.0}, 0.1)], "recall"))
    assert (
        caplog.messages
        == ["No pictures: matplotlib is not installed (pip install 'rankdistill[train]')."] * 2
    )
    assert page.parts == []


@pytest.mark.parametrize(
    ("value", "shown"), [(2e6, "2M"), (5e5, "500k"), (20, "20"), (0.5, "0.5"), (1.5e9, "1.5G")]
)
def test_sizes_are_short(value, shown):
    assert plain(value) == shown
