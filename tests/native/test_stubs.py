"""The stub of a compiled module names its functions, with as many parameters as they take."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "python" / "rankdistill"


def stubbed(name: str) -> dict[str, int]:
    tree = ast.parse((PACKAGE / f"{name}.pyi").read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {f.name: len(f.args.posonlyargs) + len(f.args.args) for f in functions}


def bound(module) -> dict[str, int]:
    """Parameters of each function, from the signature that pybind11 writes in front of its docstring."""
    names = [n for n in dir(module) if not n.startswith("_") and not isinstance(getattr(module, n), type)]
    return {n: len(re.findall(r"\barg\d+:", getattr(module, n).__doc__.split("->")[0])) for n in names}


@pytest.mark.parametrize("name", ["_native", "_cuda"])
def test_stub_is_the_modules(name):
    module = pytest.importorskip(f"rankdistill.{name}", reason=f"rankdistill.{name} was not built")
    assert stubbed(name) == bound(module)
    classes = {n: getattr(module, n) for n in dir(module) if isinstance(getattr(module, n), type)}
    for node in (
        n for n in ast.parse((PACKAGE / f"{name}.pyi").read_text()).body if isinstance(n, ast.ClassDef)
    ):
        keywords = [a.arg for a in node.body[0].args.kwonlyargs]
        assert keywords == re.findall(
            r"(\w+): (?:Supports|int|typing)", classes.pop(node.name).__init__.__doc__
        )
    assert not classes
