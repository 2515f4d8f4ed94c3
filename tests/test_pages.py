"""The pages of docs/methods: as generated, complete, and true."""

from __future__ import annotations

import re
import shlex
from fnmatch import fnmatch
from pathlib import Path

import pytest

from rankdistill import functional
from rankdistill.cli import main, make_parser
from rankdistill.methods import METHODS, settings_of
from rankdistill.pages import GOLDEN, functions_of, pages

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "methods"
OF_NO_METHOD = {"bprloss_f32", "metrics_full", "metrics_loo", "dllm2rec_small_f64"}
every_method = pytest.mark.parametrize("name", METHODS)


def section(name: str, heading: str) -> str:
    return re.search(rf"^## {heading}\n\n(.*?)(?=\n## |\Z)", pages()[f"{name}.md"], re.DOTALL | re.MULTILINE)[
        1
    ]


def test_the_committed_pages_are_those_generated(tmp_path, capsys):
    assert main(["methods", f"--pages={tmp_path}"]) == 0
    assert f"{len(METHODS) + 1} pages" in capsys.readouterr().out
    written = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    found = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()}
    assert found == written, "rankdistill methods --pages docs/methods makes them anew"


def test_pages_are_linked():
    assert "(docs/methods/README.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"({name}.md)" in pages()["README.md"] for name in METHODS)


@every_method
def test_every_part_of_a_page_is_there(name):
    for heading in ("What was open, and which form this is", "What it needs", "Cost"):
        assert len(section(name, heading)) > 20, heading
    assert re.search(r"\b(19|20)\d\d\b", section(name, "Source")), "a year"
    page = pages()[f"{name}.md"]
    assert "```text\n" in page, "a formula"
    assert all(hasattr(functional, function) for function in functions_of(name))
    meanings = dict(re.findall(r"^\| `(\w+)` \| `.*?` \| (.*) \|$", section(name, "Settings"), re.MULTILINE))
    assert meanings.keys() == settings_of(name).keys()
    assert not [key for key, meaning in meanings.items() if len(meaning) < 2]


def test_golden_files_are_each_of_one_method():
    stems = {path.stem for path in (ROOT / "tests" / "golden").glob("*.npz")}
    claimed = {
        name: {s for s in stems for p in patterns.split() if fnmatch(s, p)}
        for name, patterns in GOLDEN.items()
    }
    assert all(claimed.values())
    assert all(any(fnmatch(s, p) for s in stems) for patterns in GOLDEN.values() for p in patterns.split())
    assert sorted([*OF_NO_METHOD, *(s for found in claimed.values() for s in found)]) == sorted(stems)


@every_method
def test_a_pages_command_is_one(name):
    words = shlex.split(re.search(r"```bash\n(.*)\n```", pages()[f"{name}.md"])[1])
    settings = make_parser().parse_args(words[1:])
    assert words[0] == "rankdistill"
    assert settings[settings.subcommand].method.name == name


@every_method
def test_a_pages_program_runs(name):
    names: dict[str, object] = {}
    exec(re.search(r"```python\n(.*?)\n```", pages()[f"{name}.md"], re.DOTALL)[1], names)  # noqa: S102
    assert names["loss"].isfinite()
    assert type(names["method"]) is METHODS[name]
