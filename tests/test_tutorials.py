"""The tutorials run as they stand, in order, and show what they print."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "docs" / "tutorials"
BLOCK = re.compile(r"^```(python|bash|text)\n(.*?)^```", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"\d+\.\d+")
TOLERANCE = 0.015  # of a metric: training rounds otherwise on other machines


def accelerate() -> ModuleType:
    """The calls of accelerate's that the page makes, on one device, where it is not installed."""

    class Accelerator:
        def __init__(self, cpu: bool) -> None:
            assert cpu

        def prepare(self, *parts):
            return parts

        def backward(self, loss) -> None:
            loss.backward()

    module = ModuleType("accelerate")
    module.Accelerator = Accelerator
    return module


def lightning() -> ModuleType:
    """The calls of Lightning's, likewise: its loop in the order that it documents."""

    class Trainer:
        def __init__(self, max_epochs: int, **_) -> None:
            self.max_epochs = max_epochs

        def fit(self, module, loader) -> None:
            optimizer = module.configure_optimizers()
            for module.current_epoch in range(self.max_epochs):
                module.on_train_epoch_start()
                for index, batch in enumerate(loader):
                    loss = module.training_step(batch, index)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()

    module = ModuleType("lightning")
    module.LightningModule, module.Trainer = torch.nn.Module, Trainer
    return module


STAND_INS = {"accelerate": accelerate, "lightning": lightning}


def commands(block: str) -> str:
    """The lines of a block of shell, `rankdistill` being this interpreter's."""
    found = []
    for line in block.splitlines():
        program, *arguments = shlex.split(line)
        assert program == "rankdistill", line
        done = subprocess.run(
            [sys.executable, "-m", "rankdistill", *arguments, "--progress", "false"]
            if "--progress" in HELP[arguments[0]]
            else [sys.executable, "-m", "rankdistill", *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found.append(done.stdout)
    return "".join(found)


HELP = {
    "extract": "--progress",
    "train": "--progress",
    "distill": "--progress",
    "bench-serving": "",
    "export": "",
}


def assert_shown(found: str, shown: str) -> None:
    assert NUMBER.sub("#", found) == NUMBER.sub("#", shown)
    for one, other in zip(NUMBER.findall(found), NUMBER.findall(shown), strict=True):
        assert float(one) == pytest.approx(float(other), abs=TOLERANCE)


@pytest.mark.parametrize("page", ["drop-in-loss", "offline-teacher", "your-own-method"])
def test_a_page_runs_and_prints_what_it_shows(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, stand_in in STAND_INS.items():
        if importlib.util.find_spec(name) is None:
            monkeypatch.setitem(sys.modules, name, stand_in())
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    names: dict = {"__name__": page}
    printed = ""
    shown = 0
    try:
        for language, block in BLOCK.findall((FOLDER / f"{page}.md").read_text(encoding="utf-8")):
            if language == "text":
                assert_shown(printed, block)
                shown += 1
            elif language == "bash":
                printed = commands(block)
            else:
                with contextlib.redirect_stdout(io.StringIO()) as out:
                    exec(compile(block, page, "exec"), names)  # noqa: S102
                printed = out.getvalue()
    finally:
        torch.set_num_threads(before)
    assert shown >= 2


def test_links_lead_somewhere():
    for page in FOLDER.glob("*.md"):
        for link in re.findall(r"\]\(([^)#]+\.md)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).resolve().exists(), f"{page.name}: {link}"
