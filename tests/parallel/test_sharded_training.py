"""Training with tables divided by rows among two and three ranks: the weights, metrics and errors of one process."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch

from rankdistill.models.saved import load_model
from tests.losses.every_method import world
from tests.parallel import sharded_training_ranks as ranks
from tests.parallel.sharded_training_ranks import OTHERS, RESUMED, RUNS
from tests.process import expect_ended, start_ranks


@pytest.fixture(scope="module", params=[2, 3])
def answers(request, tmp_path_factory) -> tuple[Path, list[dict]]:
    """(folder, what each rank found)"""
    size, folder = request.param, tmp_path_factory.mktemp("sharded")
    expect_ended(start_ranks("tests.parallel.sharded_training_ranks", size, folder))
    return folder, [torch.load(folder / f"answers-{rank}") for rank in range(size)]


@cache
def alone(name: str) -> dict:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    found = ranks.trained(name, False)
    torch.set_num_threads(before)
    return found


def joined(found: list[dict], side: int, replicated: bool = False) -> torch.Tensor:
    parts = [one["tables"][side] for one in found]
    if replicated:
        assert all(torch.equal(part, parts[0]) for part in parts)
        return parts[0]
    return torch.cat(parts)


def close(found: torch.Tensor, expected: torch.Tensor, what: object) -> None:
    torch.testing.assert_close(
        found, expected, rtol=1e-4, atol=1e-5, equal_nan=True, msg=lambda text: f"{what}: {text}"
    )


def timeless(found: dict) -> list[dict]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in found["history"]]


@pytest.mark.parametrize("name", [*RUNS, *OTHERS])
def test_ranks_train_as_one_process_does(answers, name):
    found = [one[name] for one in answers[1] if name in one]
    if not found:
        pytest.skip("with two ranks alone")
    assert not any(isinstance(one, str) for one in found), found[0]
    expected = alone(name)
    replicated = (RUNS | OTHERS)[name][3].get("replicate_users", False)
    begun = ranks.trainer_of(name, False).model.tables()
    for side, table in enumerate(expected["tables"]):
        whole = joined(found, side, replicated and side == 0)
        assert float((whole - begun[side]).abs().max()) > 0.01, "it has learned nothing"
        close(whole, table, side)
    for one in found:
        assert timeless(one) == timeless(found[0])
        for state, wanted in zip(one["methods"], expected["methods"], strict=True):
            assert state.keys() == wanted.keys()
            for key, value in wanted.items():
                close(state[key], value, key)
    for record, other in zip(found[0]["history"], expected["history"], strict=True):
        assert record["loss"] == pytest.approx(other["loss"], rel=1e-5), record["epoch"]
        assert record["valid/recall@20"] == pytest.approx(other["valid/recall@20"], abs=0.02)


def test_a_resumed_run_goes_on_bit_for_bit(answers):
    for one in answers[1]:
        parts, whole = one["parts"], one["whole"]
        assert all(torch.equal(a, b) for a, b in zip(parts["tables"], whole["tables"], strict=True))
        assert timeless(parts) == timeless(whole)


def test_another_number_of_ranks_goes_on(answers):
    """One process, from the checkpoint of several: its best weights too."""
    folder, found = answers
    on = ranks.trained("rrd", True, folder=folder / "for others", **RESUMED)
    for side, table in enumerate(on["tables"]):
        close(table, torch.cat([one["whole"]["tables"][side] for one in found]), side)


def test_what_ranks_keep_is_written_by_slices(answers):
    folder, found = answers
    kept = folder / "whole" / "checkpoint"
    assert json.loads((kept / "facts.json").read_text())["processes"] == len(found)
    assert len(list(kept.glob("*.distcp"))) == len(found)


def test_one_file_of_the_whole_model(answers):
    folder, found = answers
    model = load_model(folder / "model.safetensors", world())
    assert type(model).__name__ == "MatrixFactorization"
    for side, table in enumerate(model.tables()):
        assert torch.equal(table, torch.cat([one["exported"]["rows"][side] for one in found]))
    assert all(torch.equal(one["exported"]["read"], model.item_table) for one in found)


def test_what_needs_whole_tables_is_an_error_on_all(answers):
    for rank, one in enumerate(answers[1]):
        refused = one["refused"]
        for name, start in {
            "bd": "ValueError: BidirectionalDistillation: expected a student with whole tables, as it reads scores of all",
            "hetcomp": "ValueError: HeterogeneousCompression: expected a student with whole tables, as it reads ",
            "dcd": "ValueError: DualCorrection: expected a student with whole tables, as it reads both tables, for ranks",
            "concf": "TypeError: ConsensusLearning: expected a student with heads, MultiHeadFactorization",
        }.items():
            assert refused[name].startswith(start), refused[name]
        own = {
            "a whole model's folder": "expected no checkpoint, or checkpoint, in ",
            "a folder of rows": "expected no checkpoint, or checkpoint.safetensors, in ",
            "other settings": "expected learning_rate=0.05, as the checkpoint",
            "no room": "No such file or directory",
        }
        for name, text in own.items():
            kind = ("ValueError", "FileNotFoundError")[name == "no room"] if rank == 0 else "AgreementError"
            assert refused[name].startswith(f"{kind}: "), refused[name]
            assert text in refused[name]
