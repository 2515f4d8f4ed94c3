"""The rules of the house (CONTRIBUTING.md): layers, names, lengths, errors, silence."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import benchmarks.__main__
import pytest

import rankdistill
from tests.process import output

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "python" / "rankdistill"
TREES = ("python", "kernels", "csrc", "tests", "benchmarks", "examples", "docs", ".ci")
TEXT = {".py", ".pyi", ".h", ".cpp", ".cu", ".cuh", ".md", ".toml", ".txt", ".sh", ".yaml", ".yml", ".json"}
CODE = {".py", ".pyi", ".h", ".cpp", ".cu", ".cuh"}

# A module imports from its own package and from lower levels only.
LEVELS = {
    "_native": 0,
    "_cuda": 0,
    "kernels": 0,
    "reference": 0,
    "files": 0,
    "config": 0,
    "denormals": 2,
    "ops": 1,
    "data": 2,
    "functional": 2,
    "sampling": 3,
    "optim": 3,
    "rankings": 3,
    "experts": 3,
    "metrics": 4,
    "checkpoint": 4,
    "losses": 4,
    "models": 5,
    "sharded": 5,
    "docstrings": 0,
    "document": 6,
    "pictures": 5,
    "memory": 0,
    "machine": 0,
    "citations": 0,
    "vector_scores": 0,
    "parallel": 5,
    "report": 5,
    "significance": 5,
    "trainer": 6,
    "methods": 6,
    "seeds": 6,
    "serving": 6,
    "collect_env": 6,
    "pages": 7,
    "fitting": 7,
    "run_report": 7,
    "studies": 8,
    "tuning": 7,
    "commands": 9,
    "cli": 10,
    "__main__": 11,
}
MAY_PRINT = {"cli", "commands", "collect_env", "__main__"}

# Ops that tests/cases.py does not describe, and why.
WITHOUT_CASE: dict[str, str] = {}

# Ops that no benchmark of their own name times, and why.
WITHOUT_BENCHMARK = {
    "lazy_update": "benchmarks/optimisers.py times it",
    "relation": "it has no kernel: what runs is its definition",
    "touched_rows": "benchmarks/gathered_inner_product.py and optimisers.py time it",
}

# Golden numbers that no test reads yet, and what they wait for.
AWAITING: dict[str, str] = {}

UNNAMED = re.compile(r"(^|_)(utils?|commons?|core|helpers?|misc|v2|stuff)$")
FOREIGN_HEADER = re.compile(r'^\s*#\s*include\s*[<"](torch/|ATen/|c10/|pybind11/|Python\.h)', re.MULTILINE)
FORBIDDEN = {
    "a path of one machine": re.compile(r"/work/|/home/\w|/root/|/Users/\w"),
    "a folder beside the tree": re.compile(r"\.\./shared"),
    "a ticket": re.compile(r"\b(issue|ticket|pull request)s? #?\d+\b", re.IGNORECASE),
    "how the code came about": re.compile(r"\b(this|previous|last|earlier|next) session\b", re.IGNORECASE),
    "a document outside the tree": re.compile(r"\b(ARCHITECTURE|ECOSYSTEM|METHODS|PERFORMANCE)(\.md|\b §)"),
    "a banner": re.compile(r"^\s*(#|//) .*[-=*]{4,}$"),
    "an unfinished note": re.compile(r"\b(FIXME|XXX|HACK)\b"),
}
MAY_CONTAIN = {("a folder beside the tree", ".ci/run")}


def files(*trees: str, suffixes: set[str] = CODE) -> list[Path]:
    found = [
        p for tree in trees for p in (ROOT / tree).rglob("*") if p.is_file() and "__pycache__" not in p.parts
    ]
    return sorted(p for p in found if p.suffix in suffixes or (suffixes is TEXT and p.suffix == ""))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def named(paths: list[Path]):
    return pytest.mark.parametrize("path", [pytest.param(p, id=name(p)) for p in paths])


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def module_of(path: Path) -> str:
    """`rankdistill.…` of a file in python/rankdistill or kernels."""
    if path.is_relative_to(PACKAGE):
        parts = ["rankdistill", *path.relative_to(PACKAGE).with_suffix("").parts]
    else:
        parts = ["rankdistill", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts).removesuffix(".__init__")


def layer_of(path: Path) -> str:
    """The second word of a module's name; empty for the package itself."""
    return module_of(path).removeprefix("rankdistill").removeprefix(".").split(".")[0]


LIBRARY = files("python", "kernels", suffixes={".py"})
MODULES = {module_of(p) for p in LIBRARY} | {"rankdistill._native", "rankdistill._cuda"}


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, module) of every import in a file, those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: expected an absolute import; got a relative one"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield node.lineno, inner if inner in MODULES else node.module


def level_of(module: str) -> tuple[str, int]:
    layer = module.split(".")[1]
    assert layer in LEVELS, f"{module}: expected a level in LEVELS of tests/test_house.py; got none"
    return layer, LEVELS[layer]


@named(LIBRARY)
def test_imports_go_down_only(path):
    module = module_of(path)
    wrong = []
    for line, target in imported(parse(path)):
        if target == "rankdistill" or not target.startswith("rankdistill."):
            continue
        if module == "rankdistill":
            continue  # for type checkers alone: see test_importing_the_package_is_silent_and_light
        (layer, level), (target_layer, target_level) = level_of(module), level_of(target)
        if target_layer != layer and target_level >= level:
            wrong.append(f"line {line}: {target}")
    assert not wrong


@named([p for p in LIBRARY if layer_of(p) in ("kernels", "reference")])
def test_kernels_and_references_import_arrays_only(path):
    allowed = {
        "__future__",
        "math",
        "collections",
        "typing",
        "functools",
        "contextlib",
        "torch",
        "rankdistill",
    }
    allowed |= {"triton", "os"} if layer_of(path) == "kernels" else set()
    assert {target.split(".")[0] for _, target in imported(parse(path))} <= allowed


def test_losses_do_not_import_each_other():
    """But for those that define `Distillation` and `Batch`, and those that are no method: nothing in them is public."""
    losses = [p for p in LIBRARY if p.parent == PACKAGE / "losses" and p.name != "__init__.py"]
    assert losses
    public = "|".join(rankdistill._EXPORTS["rankdistill.losses"])
    methods = {p for p in losses if re.search(rf"^class ({public})\b", p.read_text(), re.MULTILINE)}
    base = {
        module_of(p)
        for p in losses
        if p not in methods or re.search(r"class (Distillation|Batch)\(", p.read_text())
    }
    for path in losses:
        others = {t for _, t in imported(parse(path)) if t.startswith("rankdistill.losses")}
        assert others <= base | {module_of(path)}, name(path)


@named(files("kernels", "csrc"))
def test_native_code_knows_its_layer(path):
    text = path.read_text()
    if path.is_relative_to(ROOT / "kernels"):
        assert not FOREIGN_HEADER.search(text)
        assert 'include "csrc/' not in text
    else:
        assert not re.search(r'^\s*#\s*include\s*[<"](torch/|ATen/|c10/)', text, re.MULTILINE)


@pytest.mark.parametrize("op", rankdistill.ops.__all__)
def test_one_name_per_layer(op):
    assert (PACKAGE / "ops" / f"{op}.py").is_file()
    assert (PACKAGE / "reference" / f"{op}.py").is_file()
    assert op in rankdistill.__all__
    from tests.cases import CASES

    assert (op in CASES) != (op in WITHOUT_CASE), "expected a case in tests/cases.py, or a reason here"


def test_an_op_has_its_benchmark():
    defined = {p.stem for p in (PACKAGE / "ops").glob("*.py")} & {
        p.stem for p in (PACKAGE / "reference").glob("*.py")
    }
    assert set(rankdistill.ops.__all__) <= defined
    without = {op for op in defined - {"__init__"} if op not in benchmarks.__main__.OPS}
    assert without == set(WITHOUT_BENCHMARK), "expected benchmarks/<op>.py, or a reason in WITHOUT_BENCHMARK"


@named([p for p in files("csrc") if re.search(rf"^({'|'.join(rankdistill.ops.__all__)})\.", p.name)])
def test_a_binding_has_its_kernel(path):
    op = path.name.split(".")[0]
    folder, suffix = ("cuda", ".cuh") if path.parent.name == "cuda" else ("cpu", ".h")
    assert (ROOT / "kernels" / folder / f"{op}{suffix}").is_file()


@named(files(*TREES))
def test_names_and_lengths(path):
    assert not UNNAMED.search(path.stem), "expected a name that says what is in it"
    lines = len(path.read_text().splitlines())
    limit = 150 if path.parent == PACKAGE / "losses" else 600
    assert lines <= limit


def message_of(node: ast.Raise) -> tuple[str, str] | None:
    """The exception's name and its literal message, with {} for what is filled in; None where it is not literal."""
    call = node.exc
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or not call.args:
        return None
    literal = call.args[0]
    if isinstance(literal, ast.Constant) and isinstance(literal.value, str):
        return call.func.id, literal.value
    if isinstance(literal, ast.JoinedStr):
        return call.func.id, "".join(v.value if isinstance(v, ast.Constant) else "{}" for v in literal.values)
    return None


# Whose message is not ours to word: Python's own protocols.
PROTOCOL = {"AttributeError", "SystemExit", "StopIteration", "ArgumentTypeError", "UsageError"}


@named(LIBRARY)
def test_errors_say_what_was_expected_and_what_came(path):
    for node in ast.walk(parse(path)):
        assert not isinstance(node, ast.Assert), f"line {node.lineno}: an assert vanishes under python -O"
        message = message_of(node) if isinstance(node, ast.Raise) else None
        if message is not None and message[0] not in PROTOCOL:
            if set(message[1]) <= set("{}: "):
                continue  # another error's text, with its place in front
            assert re.match(r"(?s).+?: expected .+; got .+", message[1]), f"line {node.lineno}: {message[1]}"


@named([p for p in LIBRARY if layer_of(p) not in MAY_PRINT])
def test_the_library_does_not_print(path):
    calls = [n for n in ast.walk(parse(path)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    assert not [f"line {c.lineno}" for c in calls if c.func.id == "print"]


@named(LIBRARY)
def test_modules_say_what_they_are_for(path):
    assert ast.get_docstring(parse(path))


def seen_by_type_checkers(package: str) -> dict[str, str]:
    """name: module of what a package's `if TYPE_CHECKING:` imports."""
    path = PACKAGE.joinpath(*package.split(".")[1:], "__init__.py")
    (block,) = [
        n for n in parse(path).body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"
    ]
    found = {}
    for statement in block.body:
        assert isinstance(statement, ast.ImportFrom)
        for alias in statement.names:
            assert alias.asname == alias.name, f"{alias.name}: expected `as {alias.name}`, which exports it"
            found[alias.name] = statement.module
    return found


def test_type_checkers_see_what_loads_on_first_use():
    expected = rankdistill._HOME | dict.fromkeys(rankdistill._MODULES, "rankdistill")
    expected |= {op: f"rankdistill.ops.{op}" for op in rankdistill.ops.__all__}
    assert seen_by_type_checkers("rankdistill") == expected
    homes = rankdistill.data._HOME
    assert seen_by_type_checkers("rankdistill.data") == {n: f"rankdistill.data.{m}" for n, m in homes.items()}


def test_modules_named_as_public_exist():
    for module in rankdistill._MODULES:
        assert importlib.import_module(f"rankdistill.{module}").__doc__


def test_importing_the_package_is_silent_and_light():
    """`--help` must not pay for torch."""
    code = "import sys, rankdistill, rankdistill.collect_env; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    assert output(code) == "[]"


def test_using_the_ops_is_silent():
    assert output("import rankdistill.ops") == ""


def test_every_golden_number_is_read_or_awaited():
    stems = {p.stem for p in (ROOT / "tests" / "golden").glob("*.npz")}
    sources = "\n".join(p.read_text() for p in files("tests", suffixes={".py"}) if p != Path(__file__))
    read = {s for s in stems if re.search(rf"\b{re.escape(s)}\b", sources)}
    read |= {
        s for pattern in re.findall(r'"(\w+\*)(?:\.npz)?"', sources) for s in stems if fnmatch(s, pattern)
    }
    awaited = {s for names in AWAITING.values() for s in names.split()}
    assert not stems - read - awaited, "expected a test that reads them, or a reason in AWAITING"
    assert not awaited - stems, "expected awaited files to exist"
    assert not awaited & read, "expected files that a test reads to be off the list AWAITING"


def test_no_word_that_only_its_authors_understand():
    found = []
    for path in [*files(*TREES, suffixes=TEXT), *(p for p in ROOT.iterdir() if p.suffix in TEXT)]:
        if path == Path(__file__):
            continue
        for line, text in enumerate(path.read_text().splitlines(), start=1):
            for what, pattern in FORBIDDEN.items():
                if pattern.search(text) and (what, name(path)) not in MAY_CONTAIN:
                    found.append(f"{name(path)}:{line}: {what}: {text.strip()[:100]}")
    assert not found
