"""The pages of the site: the tree's Markdown under the paths it has there, and the API reference."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from docstrings import linked, prose
from mkdocs.structure.files import File
from names import PACKAGE, docstring_of, parsed, public_modules, public_names

ROOT = Path(__file__).parents[2]
PAGES = (
    "*.md",
    "docs/**/*.md",
    "benchmarks/results/**/*.md",
    "benchmarks/results/**/*.png",
    "kernels/*.md",
    "tests/golden/*.md",
)
RESULTS = "benchmarks/results/"


def on_files(files, config):
    for path in sorted(path for pattern in PAGES for path in ROOT.glob(pattern)):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    for module in public_modules():
        name = module.removeprefix(PACKAGE).removeprefix(".") or "index"
        files.append(File.generated(config, f"api/{name}.md", content=api_page(module)))
    config.nav = with_folders(config.nav, [file.src_uri for file in files.documentation_pages()])
    return files


def on_page_markdown(markdown, page, **kwargs):
    """With links from public names, and without a comment on top, behind which no title is looked for."""
    if page.file.src_uri.startswith(RESULTS):
        page.meta["search"] = {"boost": 0.1}  # an op's page of numbers is not what its name is searched for
    return linked(re.sub(r"\A<!--.*?-->\s*", "", markdown))


def with_folders(entry, pages: list[str]):
    """A navigation, or an entry of it, where folders stand for the pages in them."""
    if isinstance(entry, dict):
        return {title: with_folders(inner, pages) for title, inner in entry.items()}
    if isinstance(entry, list):
        return [with_folders(inner, pages) for inner in entry]
    if not entry.endswith("/"):
        return entry
    inside = [page for page in pages if page.startswith(entry)]
    inside.sort(key=lambda page: (Path(page).stem not in ("README", "index"), page))
    if entry == RESULTS:  # whose headings are often the same
        inside[1:] = [{page[len(RESULTS) : -3].removesuffix("/report"): page} for page in inside[1:]]
    return inside


def api_page(module: str) -> str:
    """What a module is for, a table of its names, and an entry of each; of the package's names, where no module has one."""
    names = public_names(module)
    elsewhere = public_modules()[1:] if module == PACKAGE else []
    elsewhere = {(name, home) for other in elsewhere for name, home in public_names(other).items()}
    blocks = [f"# {module}", prose(ast.get_docstring(parsed(module))), "| name | what it is |\n| --- | --- |"]
    for name, home in names.items():
        first = " ".join(docstring_of(home, name).split("\n\n")[0].split())
        blocks[2] += f"\n| [`{name}`][{home}.{name}] | {prose(first) or 'a constant'} |"
        if (name, home) not in elsewhere:
            blocks.append(f"::: {home}.{name}\n    options: {{heading: {name}, toc_label: {name}}}")
    return "\n\n".join(blocks) + "\n"
