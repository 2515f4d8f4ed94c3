"""What every method adds to a training step, and to the beginning of an epoch, at CiteULike's size.

A step is the student's BPR loss, the method's, both their gradients and Adam, on batches of 1024; teacher and interactions are random,
since a step's time depends on sizes. The first line is the student alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch

from benchmarks.harness import Options, device, environment, in_files
from rankdistill.config import MethodConfig, TrainingConfig
from rankdistill.data import Dataset, generate
from rankdistill.losses.batch import Batch
from rankdistill.methods import METHODS, Given, base_weight, make_method, student_of
from rankdistill.models import MatrixFactorization
from rankdistill.models.ranked import seen_rankings, unseen_rankings
from rankdistill.models.saved import build_model
from rankdistill.models.trajectory import KeptTrajectory
from rankdistill.sampling import sample_negatives, within_row_positions
from rankdistill.serving import peak_beside
from rankdistill.studies.methods import LISTED, OPTIONS
from rankdistill.trainer import Term, Trainer

N_USERS, N_ITEMS, PER_USER = 5_219, 25_181, 22
TEACHER_WIDTH, STUDENT_WIDTH, BATCH, STEPS = 200, 20, 1024, 12
HEADER = ("method", "epoch begins, ms", "step, ms", "p10–p90", "× student", "extra MB")


def given_for(dataset: Dataset) -> Given:
    """All that methods ask for; of checkpoints two teachers with two each."""
    teachers = [
        MatrixFactorization(dataset.n_users, dataset.n_items, TEACHER_WIDTH, seed=seed, init_std=0.5)
        for seed in (1, 2)
    ]
    kept = [
        KeptTrajectory([unseen_rankings(teacher, dataset, 100)] * 2, seen_rankings(teacher, dataset, 100))
        for teacher in teachers
    ]
    return Given(
        dataset, unseen_rankings(teachers[0], dataset, LISTED), STUDENT_WIDTH, teachers[0], trajectories=kept
    )


def batches_of(dataset: Dataset, method) -> Iterator[Batch]:
    """Random train interactions with the method's negatives, or others."""
    users, positives, exclude = dataset.train.users, dataset.train.items, dataset.train.csr()
    generator = torch.Generator().manual_seed(0)
    negatives = method and method.negatives(1, users, positives)
    if negatives is None:
        negatives = sample_negatives(users, within_row_positions(users), exclude, seed=0, epoch=1)
    while True:
        rows = torch.randint(0, len(users), (BATCH,), generator=generator)
        yield Batch(users[rows], positives[rows], negatives[rows])


def measured(name: str | None, given: Given, on: str) -> list[float | None]:
    """Milliseconds of an epoch's beginning and of steps (p10, median, p90), and bytes of a step at its peak."""
    dataset = given.dataset
    method = name and make_method(name, given, OPTIONS.get(name, {})).to(on)
    student = build_model(student_of(name or ""), dataset, STUDENT_WIDTH, seed=0).to(on)
    terms = [Term(METHODS[name].default_weight, method)] if name else []
    weight = base_weight([MethodConfig(name)], None) if name else 1.0
    trainer = Trainer(student, dataset, TrainingConfig(batch_size=BATCH), terms, base_weight=weight)
    wait = torch.cuda.synchronize if on == "cuda" else lambda: None

    def timed(call: Callable[[], object]) -> float:
        wait()
        began = time.perf_counter()
        call()
        wait()
        return (time.perf_counter() - began) * 1e3

    begins = 0.0
    for epoch in (0, 1):
        begins = timed(lambda epoch=epoch: method.begin_epoch(epoch, student)) if name else 0.0
    given_batches = batches_of(dataset, method)

    def step() -> None:
        batch = next(given_batches)
        trainer.batch_loss(Batch(*(part.to(on) for part in batch[:3]))).backward()
        for each in trainer.optimizers.values():
            each.step()
            each.zero_grad(set_to_none=True)

    took = sorted([timed(step) for _ in range(STEPS + 2)][2:])
    return [
        begins,
        took[len(took) // 10],
        took[len(took) // 2],
        took[-1 - len(took) // 10],
        peak_beside(step, on == "cuda")[0],
    ]


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    dataset = generate(
        N_USERS, N_ITEMS, mean_interactions=PER_USER, min_interactions=3, group_strength=0, personal_strength=0, ratios=(1, 0, 0)
    )  # fmt: skip
    given = given_for(dataset)
    where = device(options)
    facts = (
        f"commit {environment(options)['commit']}, device {where}, torch {torch.__version__}, threads {options.threads}; "
        f"medians of {STEPS} steps; of DE, PCKD and PHR the settings of the study of methods"
    )
    lines = [f"# method_steps\n\n{__doc__.partition(chr(10))[2].strip()}\n\n{facts}\n"]
    lines += ["| " + " | ".join(HEADER) + " |", "| --- " + "| ---: " * (len(HEADER) - 1) + "|"]
    base = None
    for name in (None, *METHODS):
        if name and options.shapes not in name:
            continue
        begins, low, middle, high, peak = measured(name, given, options.device)
        base = base or middle
        megabytes = "–" if peak is None else f"{peak / 2**20:.1f}"
        cells = [
            name or "student alone",
            f"{begins:.1f}",
            f"{middle:.2f}",
            f"{low:.2f}–{high:.2f}",
            f"{middle / base:.1f}",
            megabytes,
        ]
        lines.append("| " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    if options.save:
        options.out.mkdir(parents=True, exist_ok=True)
        name = in_files(f"method-steps-{where}-{options.threads}t")
        (options.out / f"{name}.md").write_text("\n".join(lines) + "\n")
