"""A report written down once, and given out as Markdown and as one HTML page that needs nothing beside it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rankdistill.files import replacing, write_text
from rankdistill.pictures import Picture
from rankdistill.report import markdown

STYLE = """
:root { color-scheme: light dark; --ink: #1c1f24; --paper: #ffffff; --line: #d4d8de; --soft: #f3f5f7; --quiet: #59616b; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7eb; --paper: #14171b; --line: #3a4049; --soft: #1e2228; --quiet: #a0a8b3; }
}
body { color: var(--ink); background: var(--paper); font: 16px/1.5 system-ui, sans-serif; margin: 0; }
main { max-width: 78rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.7rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin-top: 2.2rem; }
.table { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.92rem; }
caption { text-align: left; color: var(--quiet); padding-bottom: 0.4rem; }
th, td { padding: 0.28rem 0.55rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child { text-align: left; } thead th { background: var(--soft); } tbody th { font-weight: 500; }
figure { margin: 1.2rem 0; } figure svg { max-width: 100%; height: auto; color: var(--ink); }
figcaption { color: var(--quiet); font-size: 0.92rem; }
"""
# Nothing is loaded: no script, no font, no picture of another address.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Listed:
    """A table: the first line is the header, the first column names the lines."""

    lines: Sequence[Sequence[str]]
    caption: str = ""


@dataclass
class Document:
    """A title and what follows it, in order.

    Example:
        >>> page = Document("Numbers")
        >>> page.table([["model", "recall"], ["student", "0.2"]])
        >>> print(page.as_markdown())
        # Numbers
        <BLANKLINE>
        | model   | recall |
        | ---     | ---:   |
        | student | 0.2    |
        <BLANKLINE>
    """

    title: str
    parts: list[Heading | Paragraph | Listed | Picture] = field(default_factory=list)

    def heading(self, text: str) -> None:
        self.parts.append(Heading(text))

    def text(self, text: str) -> None:
        self.parts.append(Paragraph(text))

    def table(self, lines: Sequence[Sequence[str]], caption: str = "") -> None:
        self.parts.append(Listed(lines, caption))

    def picture(self, picture: Picture | None) -> None:
        """None where there is nothing to draw with. Raises ValueError where another picture has its name."""
        if picture is None:
            return
        if any(isinstance(part, Picture) and part.name == picture.name for part in self.parts):
            raise ValueError(
                f"Document: expected pictures of different names; got two of the name {picture.name}"
            )
        self.parts.append(picture)

    def as_markdown(self) -> str:
        """Pictures are files beside it, by their name."""
        blocks = [f"# {escaped(self.title)}"]
        for part in self.parts:
            if isinstance(part, Heading):
                blocks.append(f"## {escaped(part.text)}")
            elif isinstance(part, Paragraph):
                blocks.append(escaped(part.text))
            elif isinstance(part, Listed):
                lines = [[escaped(cell).replace("|", "\\|") for cell in line] for line in part.lines]
                blocks += [*([escaped(part.caption) + ":"] if part.caption else []), markdown(lines)]
            else:
                alt = escaped(part.alt).replace("[", "(").replace("]", ")")
                blocks.append(f"![{alt}]({part.name}.png)")
        return "\n\n".join(blocks) + "\n"

    def as_html(self) -> str:
        """One page, its pictures in it; every text is escaped."""
        quote = html.escape
        blocks = []
        for number, part in enumerate(self.parts):
            if isinstance(part, Heading):
                blocks.append(f"<h2>{quote(part.text)}</h2>")
            elif isinstance(part, Paragraph):
                blocks.append(f"<p>{quote(part.text)}</p>")
            elif isinstance(part, Listed):
                blocks.append(self._table(part))
            else:
                drawing = part.svg().replace("<svg ", f'<svg role="img" aria-labelledby="alt-{number}" ', 1)
                blocks.append(
                    f'<figure>{drawing}<figcaption id="alt-{number}">{quote(part.alt)}</figcaption></figure>'
                )
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{quote(self.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
            f"<h1>{quote(self.title)}</h1>\n" + "\n".join(blocks) + "\n</main>\n</body>\n</html>\n"
        )

    @staticmethod
    def _table(part: Listed) -> str:
        quote = html.escape
        header, *lines = part.lines
        head = "".join(f'<th scope="col">{quote(cell)}</th>' for cell in header)
        body = "\n".join(
            f'<tr><th scope="row">{quote(line[0])}</th>' + "".join(f"<td>{quote(cell)}</td>" for cell in line[1:]) + "</tr>"
            for line in lines
        )  # fmt: skip
        caption = f"<caption>{quote(part.caption)}</caption>" if part.caption else ""
        label = quote(part.caption or "table")
        return (
            f'<div class="table" role="region" tabindex="0" aria-label="{label}"><table>{caption}'
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
        )

    def write(self, folder: Path, name: str = "report") -> None:
        """`name`.md, its pictures as PNG files, and `name`.html in the folder."""
        for part in self.parts:
            if isinstance(part, Picture):
                with replacing(folder / f"{part.name}.png") as temporary:
                    temporary.write_bytes(part.png())
        write_text(folder / f"{name}.md", self.as_markdown())
        write_text(folder / f"{name}.html", self.as_html())


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, as far as it might be taken for HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;")
