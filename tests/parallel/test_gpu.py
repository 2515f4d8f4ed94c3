"""Training on a GPU: every method as on the processor, and sums of gradients over NCCL."""

from __future__ import annotations

import pytest
import torch

from rankdistill import Term, Trainer, extract_rankings
from rankdistill.cli import main
from rankdistill.methods import METHODS
from rankdistill.rankings import extraction, plan
from rankdistill.rankings.tables import Table
from tests.case import randn
from tests.losses.every_method import NAMES, given_in, make, make_student, world
from tests.parallel.training_ranks import CONFIG
from tests.process import output

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("name", NAMES)
def test_a_method_trains_on_the_device(name):
    losses = []
    for device in ("cpu", "cuda"):
        method = make(name, given_in(world())).to(device)
        trainer = Trainer(
            make_student(name, scale=1.0).to(device), world(), CONFIG, [Term(METHODS[name].default_weight, method)],
            base_weight=METHODS[name].default_base_weight,
        )  # fmt: skip
        losses.append([record["loss"] for record in trainer.fit()])
    # Dropout and noise of torch's generators differ between devices.
    assert losses[1] == pytest.approx(losses[0], rel=0.2 if name in ("freqd", "concf", "rkd") else 1e-3)


GENERATED = [
    "--data.options={n_users: 150, n_items: 120, mean_interactions: 15, min_interactions: 6, n_groups: 5}",
    "--device=cuda",
]
QUICK = ["--progress=false", "--training.epochs=4", "--training.evaluate_every=2"]


def test_commands_on_the_device(tmp_path, capsys):
    """Trained there; ranked and evaluated there as on the processor."""
    for method in ("hetcomp", "dcd"):
        assert main(["run", f"--method.name={method}", f"--out={tmp_path / method}", *QUICK, *GENERATED]) == 0
    tune = [
        "tune",
        "--method.name=dcd",
        f"--teacher={tmp_path}/dcd/teacher",
        "--trials=2",
        f"--out={tmp_path}/tune",
    ]
    assert main([*tune, *QUICK, *GENERATED]) == 0
    found = []
    for device in ("cpu", "cuda"):
        given = [f"--model={tmp_path}/dcd/teacher", *GENERATED[:1], f"--device={device}"]
        lists = tmp_path / f"{device}.safetensors"
        assert main(["extract", f"--out={lists}", "--k=9", "--progress=false", *given]) == 0
        capsys.readouterr()
        assert main(["evaluate", *given]) == 0
        found.append((lists.read_bytes(), capsys.readouterr().out))
    assert found[0] == found[1]


@pytest.mark.parametrize("room", [90, 40])
def test_extraction_in_blocks_that_fit_the_device(tmp_path, monkeypatch, room):
    users, items = randn(40, 16, seed=5), randn(90, 16, seed=6)
    here = extract_rankings(users, items, 7, out=tmp_path / "here")
    of_an_item = plan.device_item_bytes(Table.of("op", "items", items))
    monkeypatch.setattr(
        extraction, "free_bytes", lambda device: plan.DEVICE_RESERVE + -(-room * of_an_item * 10 // 9)
    )
    there = extract_rankings(users, items, 7, out=tmp_path / "there", device="cuda")
    for part in ("indices", "scores", "lengths"):
        assert torch.equal(getattr(here, part), getattr(there, part))


NCCL = """
import torch, torch.distributed as dist
from rankdistill.parallel import torchrun_processes
from rankdistill.parallel.gradients import gather_ids, reduce_dense, summed_rows
from rankdistill.rankings.distributed import Processes

with torchrun_processes("cuda", 60):
    dist.init_process_group("cpu:gloo,cuda:nccl", store=dist.HashStore(), rank=0, world_size=1)
    processes = Processes("test")
    table = torch.nn.Parameter(torch.zeros(9, 2, device="cuda"))
    ids, rows = torch.tensor([2, 5], device="cuda"), torch.ones(2, 2, device="cuda")
    for most in (2, 90):  # gathered, and added up in a table
        found = summed_rows(processes, ids, rows, max(most, 2), table)
        assert found[0].tolist() == [2, 5] and found[1].eq(1).all()
    table.grad = torch.ones_like(table)
    reduce_dense(processes, [table])
    assert table.grad.eq(1).all()
    assert [t.tolist() for t in gather_ids(processes, [ids])] == [[2, 5]]
    with Processes.on_cpu("test") as control:
        assert control.group is None, "one group carries both"
    dist.destroy_process_group()
print("done")
"""


def test_sums_over_nccl_of_one_process():
    assert output(NCCL).splitlines()[-1] == "done"
