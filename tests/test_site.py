"""The API reference of the site (docs/site): complete, and true."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import pytest

import rankdistill

PATH = Path(__file__).parents[1] / "docs" / "site" / "names.py"
spec = importlib.util.spec_from_file_location("names", PATH)
names = importlib.util.module_from_spec(spec)
spec.loader.exec_module(names)

MODULES = ["rankdistill", *sorted(f"rankdistill.{name}" for name in rankdistill._MODULES)]


def test_every_public_module_has_a_page():
    assert names.public_modules() == MODULES


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_has_an_entry(name):
    module, found = importlib.import_module(name), names.public_names(name)
    own = {n for n, thing in vars(module).items() if getattr(thing, "__module__", "") == name and n[0] != "_"}
    assert found.keys() == set(getattr(module, "__all__", own)) - rankdistill._MODULES
    for public, home in found.items():
        thing = getattr(module, public)
        assert getattr(importlib.import_module(home), public) is thing
        if callable(thing):
            assert thing.__module__ == home
            assert names.docstring_of(home, public)
