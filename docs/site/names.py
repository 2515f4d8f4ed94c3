"""The public names of the package, read from its files: nothing of it is imported."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "python"
PACKAGE = "rankdistill"
DEFINITIONS = (ast.ClassDef, ast.FunctionDef)


@cache
def parsed(module: str) -> ast.Module:
    path = SOURCE.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def public_modules() -> list[str]:
    """The package, and those of its modules that it names."""
    imports = (node for node in ast.walk(parsed(PACKAGE)) if isinstance(node, ast.ImportFrom))
    inner = {alias.name for node in imports if node.module == PACKAGE for alias in node.names}
    return [PACKAGE, *(f"{PACKAGE}.{name}" for name in sorted(inner))]


@cache
def public_names(module: str) -> dict[str, str]:
    """What a module offers, with the module that defines it: what a package imports of its own; else `__all__`, or all.

    Constants, which have no docstring, come last.
    """
    body = [*parsed(module).body]
    body += [inner for node in body if isinstance(node, ast.If) for inner in node.body]  # TYPE_CHECKING
    imports = [
        node for node in body if isinstance(node, ast.ImportFrom) and node.module.startswith(f"{module}.")
    ]
    found = {alias.name: node.module for node in imports for alias in node.names}
    found = {name: public_names(inner).get(name, inner) for name, inner in found.items()}
    if not found:
        names = [node.name for node in body if isinstance(node, DEFINITIONS) and node.name[0] != "_"]
        for node in body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                names = ast.literal_eval(node.value)
        found = dict.fromkeys(names, module)
    return {
        name: found[name]
        for name in sorted(found, key=lambda name: (not docstring_of(found[name], name), name))
    }


def docstring_of(module: str, name: str) -> str:
    """Of a class or a function; none of a constant."""
    nodes = (node for node in parsed(module).body if isinstance(node, DEFINITIONS) and node.name == name)
    return next((ast.get_docstring(node) or "" for node in nodes), "")
