"""Docstrings as Markdown: formulas keep their lines, nothing is taken for markup, public names are linked."""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

from griffe import Extension, Function, Parameter, ParameterKind, Parameters

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "python")]  # the package is not installed

from names import PACKAGE, public_modules, public_names

from rankdistill.docstrings import as_text, sections

# What texts call them: `inner_product_topk`, `functional.list_net`, each with or without the package before it.
LINKS = {
    f"{module.removeprefix(PACKAGE).removeprefix('.')}.{name}".removeprefix("."): f"{home}.{name}"
    for module in public_modules()
    for name, home in public_names(module).items()
}
CODE = re.compile(r"(`[^`]*`)")
# The same, fenced code, and what is a link already.
LINKED = re.compile(r"(^```.*?^```|\[[^\]]*\](?:\([^)]*\)|\[[^\]]*\])|`[^`]*`)", re.DOTALL | re.MULTILINE)
MARKUP = re.compile(r"[<*\\]|(?<!\w)_|(?<=\])[(\[]")


class Docstrings(Extension):
    def on_object(self, *, obj, **kwargs) -> None:
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)

    def on_class(self, *, cls, **kwargs) -> None:
        """Named tuples get the constructor that their fields make, as data classes do."""
        if "NamedTuple" in map(str, cls.bases):
            kind = ParameterKind.positional_or_keyword
            fields = [a for a in cls.attributes.values() if a.annotation is not None]
            made = [Parameter(a.name, annotation=a.annotation, kind=kind, default=a.value) for a in fields]
            parameters = Parameters(Parameter("self", kind=kind), *made)
            cls.set_member("__init__", Function("__init__", parameters=parameters))


def as_markdown(docstring: str) -> str:
    parts = sections(docstring)
    blocks = [prose(paragraph) for paragraph in parts.pop("").split("\n\n")]
    for title, body in parts.items():
        if title == "Raises":
            body = re.sub(r"\. (?=\w+Error: )", ".\n", body)  # a line each
            body = re.sub(
                r"^[\w, ]+Error: ", lambda match: match[0].replace(", ", " | "), body, flags=re.MULTILINE
            )
        body = body if title == "Example" else prose(body)
        blocks.append(f"{title.replace('Example', 'Examples')}:\n{textwrap.indent(body, '    ')}")
    return "\n\n".join(blocks)


def prose(text: str) -> str:
    """Markdown that reads as the text does."""
    if (formula := as_text(text)) != text:
        return formula
    parts = CODE.split(text)
    parts[::2] = [MARKUP.sub(lambda match: f"&#{ord(match[0])};", part) for part in parts[::2]]
    return linked("".join(parts))


def linked(markdown: str) -> str:
    """With links from public names to the reference."""
    parts = LINKED.split(markdown)
    for at, code in enumerate(parts):
        target = LINKS.get(code[1:-1].removeprefix(f"{PACKAGE}.")) if code.startswith("`") else None
        parts[at] = f"[{code}][{target}]" if target else code
    return "".join(parts)
