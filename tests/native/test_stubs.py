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
    names = [n for n in dir(module) if not n.startswith("_")]
    return {n: len(re.findall(r"\barg\d+:", getattr(module, n).__doc__.split("->")[0])) for n in names}


@pytest.mark.parametrize("name", ["_native", "_cuda"])
def test_stub_is_the_modules(name):
    module = pytest.importorskip(f"rankdistill.{name}", reason=f"rankdistill.{name} was not built")
    assert stubbed(name) == bound(module)
