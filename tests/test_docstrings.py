"""What docstrings of public names say (CONTRIBUTING.md): which sections, of which arguments, with examples that run."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

import rankdistill
from rankdistill import sampling
from rankdistill.docstrings import sections
from rankdistill.losses import Distillation, VectorDistillation
from rankdistill.models.kinds import MODELS

BASES = (Distillation, VectorDistillation)
SECTIONS = {
    "op": ("Args", "Returns", "Contract", "Raises", "Cost", "Source", "Example"),
    "function of losses": ("Args", "Returns", "Raises", "Cost", "Source", "Example"),
    "method": ("Args", "Raises", "Cost", "Forms", "Source", "Example"),
    "model": ("Args", "Raises", "Cost", "Source", "Example"),
}
# Sections that a name goes without, and why.
WITHOUT = {
    "of no paper": (
        "Source",
        """catalogue_log_mass dropout_mask gathered_inner_product inner_product_rank inner_product_topk masked_rank
        masked_topk functional.catalogue_cross_entropy functional.group_means functional.joined_log_mass
        functional.reduce_rows""",
    ),
    "their method is to be written, in a subclass": ("Example", "Distillation VectorDistillation"),
    "made by a function, which says it": ("Args Example", "PreparedItems"),
    "settings of a command, whose Args have their ranges, and whose page shows it": (
        "Raises Example",
        "config.*",
    ),
    "needs a network": ("Example", "data.fetch data.RemoteFile data.Source"),
    "a part of another one's example": (
        "Example",
        "Term parallel.Copies parallel.broadcast_state sharded.Ranks sharded.Side sharded.save_sharded",
    ),
}
EXCUSED = {
    (name, section)
    for sections, names in WITHOUT.values()
    for name in names.split()
    for section in sections.split()
}


def public_names() -> Iterator[tuple[str, object]]:
    """Every function and class of the package and of its public modules, once each, by the name that a user imports."""
    seen = set()
    modules = [
        (f"{name}.", importlib.import_module(f"rankdistill.{name}")) for name in sorted(rankdistill._MODULES)
    ]
    for prefix, module in [("", rankdistill), *modules]:
        own = [n for n, thing in vars(module).items() if getattr(thing, "__module__", "") == module.__name__]
        for name in getattr(module, "__all__", [n for n in own if not n.startswith("_")]):
            thing = getattr(module, name)
            if callable(thing) and not isinstance(thing, ModuleType) and id(thing) not in seen:
                seen.add(id(thing))
                yield prefix + name, thing


PUBLIC = dict(public_names())
every_public_name = pytest.mark.parametrize("name", PUBLIC)


def kind_of(name: str, thing: object) -> str | None:
    if name in rankdistill.ops.__all__:
        return "op"
    if name.startswith("functional."):
        return "function of losses"
    if isinstance(thing, type) and issubclass(thing, Distillation) and thing not in BASES:
        return "method"
    return "model" if thing in MODELS.values() else None


def parameters_of(thing: object) -> list[str]:
    """By name: not self, and none of a class that has no constructor of its own."""
    parameters = inspect.signature(thing).parameters
    return [name for name in parameters if name not in ("self", "cls", "args", "kwargs")]


def lines_of(part: object) -> str:
    """Of a function; none of what a dataclass or a named tuple has made itself."""
    try:
        return inspect.getsource(part)
    except (OSError, TypeError):
        return ""


def raises_itself(thing: object) -> bool:
    """Whether errors stand in its own lines: those of a class in what makes it."""
    made = ("__init__", "__post_init__")
    parts = [vars(thing).get(part) for part in made] if isinstance(thing, type) else [thing]
    check = r"^\s+(raise \w|(checks\.)?_?(expect|check)\w*\(|for .* in expect_)"
    return any(re.search(check, lines_of(part), re.MULTILINE) for part in parts)


def expected_sections(name: str, thing: object) -> tuple[str, ...]:
    kind = kind_of(name, thing)
    if kind is not None:
        return SECTIONS[kind]
    return (*["Args"] * bool(parameters_of(thing)), *["Raises"] * raises_itself(thing), "Example")


@every_public_name
def test_a_public_name_has_its_sections(name):
    thing = PUBLIC[name]
    parts = sections(thing.__doc__ or "")
    assert len(parts[""].splitlines()[0]) > 10
    excused = {section for key, section in EXCUSED if key in (name, f"{name.split('.')[0]}.*")}
    missing = [s for s in expected_sections(name, thing) if not parts.get(s) and s not in excused]
    assert not missing


def test_what_is_excused_is_there_and_needs_it():
    for name, section in EXCUSED:
        if not name.endswith("*"):
            assert section in expected_sections(name, PUBLIC[name]), (name, section)
            assert section not in sections(PUBLIC[name].__doc__ or ""), (name, section)


def methods_of(thing: object) -> Iterator[tuple[str, object]]:
    """Its public methods, where it is a class."""
    for name, method in vars(thing).items() if isinstance(thing, type) else ():
        if not name.startswith("_"):
            yield name, getattr(method, "__func__", method)


def described_arguments(thing: object) -> list[str]:
    """The names that stand before the colons of Args."""
    lines = [
        line
        for line in sections(thing.__doc__ or "").get("Args", "").splitlines()
        if line and not line.startswith(" ")
    ]
    return [name for line in lines for name in line.partition(":")[0].split(", ")]


@every_public_name
def test_arguments_are_those_of_the_signature(name):
    """Each is said, once; none that there is no more."""
    thing = PUBLIC[name]
    for place, found in ((name, thing), *((f"{name}.{at}", method) for at, method in methods_of(thing))):
        if callable(found) and "Args" in sections(found.__doc__ or ""):
            own = [p for p in parameters_of(found) if p != "cls"]
            assert sorted(described_arguments(found)) == sorted(own), place


def run_examples(thing: object, name: str, more: dict) -> None:
    names = {n: thing for n, thing in PUBLIC.items() if "." not in n} | {"torch": torch} | more
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    for example in doctest.DocTestFinder(recurse=False).find(thing, name, globs=dict(names)):
        report: list[str] = []
        runner.run(example, out=report.append)
        assert not runner.failures, "".join(report)


@every_public_name
def test_examples_give_what_they_show(name):
    """By the package's names, and those of the module that one is in; of its methods too."""
    home = importlib.import_module(f"rankdistill.{name.rpartition('.')[0]}".removesuffix("."))
    more = {"data": rankdistill.data} | {
        other: getattr(home, other) for other in getattr(home, "__all__", ())
    }
    for place, found in (
        (name, PUBLIC[name]),
        *((f"{name}.{at}", part) for at, part in methods_of(PUBLIC[name])),
    ):
        run_examples(found, place, more)


def test_examples_of_samplers_give_what_they_show():
    for name, function in vars(sampling).items():
        if getattr(function, "__module__", "") == sampling.__name__:
            run_examples(function, name, vars(sampling))
