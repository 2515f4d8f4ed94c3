"""What a docstring's parts are: prose and formulas, then sections with a heading each. Imports no torch."""

from __future__ import annotations

import inspect
import re
import textwrap

SECTION = re.compile(r"^(Args|Attributes|Raises|Contract|Cost|Forms|Source|Example|Returns):$")
FORMULA = re.compile(r"^([\w.]+([(\[][^)\]]*[)\]])? = |top \d|list: |With E\()")


def sections(docstring: str) -> dict[str, str]:
    """A docstring's parts: "" for what comes before the first headed one."""
    found: dict[str, list[str]] = {"": []}
    at = ""
    for line in inspect.cleandoc(docstring).splitlines():
        if match := SECTION.match(line):
            at = match[1]
            found[at] = []
        else:
            found[at].append(line)
    return {name: textwrap.dedent("\n".join(lines)).strip() for name, lines in found.items()}


def as_text(paragraph: str) -> str:
    """A paragraph as Markdown: formulas keep their lines."""
    return f"```text\n{paragraph}\n```" if FORMULA.match(paragraph) else paragraph
