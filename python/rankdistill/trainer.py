"""A plain training loop: shuffles, negatives, the model's own loss plus weighted distillation terms.

Every random choice depends on the seed and the epoch alone, so a checkpoint needs no generator's state, and any number
of processes makes the same ones.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rankdistill.config import TrainingConfig
from rankdistill.data.dataset import Dataset
from rankdistill.denormals import flushed_denormals
from rankdistill.files import alone_in, remove_partial, write_text
from rankdistill.losses.batch import Batch, Share
from rankdistill.losses.distillation import Distillation
from rankdistill.metrics import CUTOFFS, USUAL, expect_chosen, taken_apart
from rankdistill.optim import LazySGD, make_optimizers
from rankdistill.optim.choice import LAZY
from rankdistill.parallel.agreement import (
    Fact,
    attributes,
    checksum,
    facts_of,
    lasting_facts_of,
    plain_facts_of,
)
from rankdistill.parallel.copies import CHECKPOINT, Copies
from rankdistill.parallel.gradients import gather_ids, reduce_gradients
from rankdistill.parallel.objective import Objective, Term, expect_divided
from rankdistill.rankings import Rankings
from rankdistill.rankings.distributed import Processes
from rankdistill.sampling import epoch_seed, sample_negatives, within_row_positions
from rankdistill.sharded.checkpoint import tables_of
from rankdistill.sharded.slices import CHECKPOINT as ROWS
from rankdistill.sharded.slices import Slices

logger = logging.getLogger("rankdistill")

__all__ = ["CHECKPOINT", "LOG", "Trainer"]

LOG = "log.jsonl"
LOCK = ".training.lock"
SECONDS_WITHOUT_CHECKPOINT = 60.0  # where evaluations are further apart and checkpoints quick
SAVES_APART = 9.0  # times what the last one took: checkpoints by time cost a tenth of it at the most
UNTOLD = {"training", "sparse_grad", "begun"}  # attributes that are of the moment


class Trainer:
    """Trains a model on a data set, alone or with distillation terms.

    Where torch.distributed is in use, all processes make and call a trainer alike, and divide each batch: the result is that
    of one process. Rank 0 writes, reads the folder's checkpoint for all, and calls `after_epoch`. Where tables of the model are
    divided by rows (`sharded`), ranks keep and read their rows together, and all call `after_epoch`.

    Args:
        model: with `score`, `loss(batch)`, and vectors or scores for evaluation; for a lazy optimiser also `tables()`
            and the attributes `sparse_grad` and `before_reading`, as `MatrixFactorization`. Where it has `batch_by` of
            "users" or "items", a batch is all train interactions of batch_size of these; `begin_epoch(epoch)` is
            called before an epoch where it is there.
        dataset: train, validation and test interactions.
        config: see `TrainingConfig`.
        terms: what is added to the model's own loss.
        base_weight: of the model's own loss (0 for methods that learn from the teacher alone).
        after_epoch: called with each epoch's number and the model, after it has learned (such as a `Trajectory`).
        after_record: called, on rank 0, with what the log gets of an epoch: "epoch", "loss", "seconds" so far, and the metrics
            of an evaluation by name. A resumed run repeats the epochs since its checkpoint.
        evaluation: model → its numbers, "valid/name@cutoff" and perhaps "test/name@cutoff", instead of ranking the whole
            catalogue.
        watched: the metrics that `patience` waits for, any of them; the one of `config` by default.
        folder: where the checkpoint and the log go; None to keep nothing. A checkpoint of other settings, methods or weights
            is refused, and a folder that another trainer is at work in.
        seconds_between_checkpoints: the fewest, beside the last one; an interrupted run repeats what came after. There is one
            after an evaluation, and else after a minute, or nine times as long as the last one took.
        progress: wraps the range of epochs (such as tqdm).
        group: processes that train together, each with a copy of the model, or its rows of divided tables; None for all of
            torch.distributed's. The model's loss must be a sum over interactions.

    Raises:
        ValueError: a method that knows no shares, or needs whole tables that no process has; processes that disagree about
            data, settings, teachers or the model; rankings that name what is no item; `files.AtWork`, which is one, where
            another trainer works in the folder.
        ConnectionError: another process failed, ended or did not answer within the group's time-out.

    Example:
        >>> from rankdistill import config, data
        >>> dataset = data.generate(50, 40, mean_interactions=8, min_interactions=5, n_groups=4, groups_per_user=1)
        >>> student = MatrixFactorization(dataset.n_users, dataset.n_items, width=4)
        >>> history = Trainer(student, dataset, config.TrainingConfig(epochs=2)).fit()
        >>> [record["epoch"] for record in history]
        [0, 1]
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        config: TrainingConfig | None = None,
        terms: Sequence[Term | tuple[float, Distillation]] = (),
        *,
        base_weight: float = 1.0,
        after_epoch: Callable[[int, nn.Module], None] | None = None,
        after_record: Callable[[dict[str, float]], None] | None = None,
        evaluation: Callable[[nn.Module], dict[str, float]] | None = None,
        watched: Sequence[str] = (),
        folder: str | Path | None = None,
        seconds_between_checkpoints: float = 0.0,
        progress: Callable = iter,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.model, self.dataset, self.config = model, dataset, config or TrainingConfig()
        self.terms = [Term(*term) for term in terms]
        self.base_weight, self.after_epoch, self.after_record = base_weight, after_epoch, after_record
        self.evaluation, self.watched = evaluation, tuple(watched) or (self.config.metric,)
        self.folder = None if folder is None else Path(folder)
        self.seconds_between_checkpoints = seconds_between_checkpoints
        self._kept_at, self._saving_took = time.monotonic(), 0.0
        self.progress = progress
        self._expect_measurable()
        self.processes = self._control = Processes("Trainer", group)
        self.held = held_by(model, self.processes)
        for term in self.terms:
            self.held.expect_method(term.method)
        self.share = None
        if self.processes.size > 1:
            self.share = Share(self.processes.rank, self.processes.size)
            if self.batch_by != "interactions":
                raise ValueError(
                    f"Trainer: expected a model whose loss is a sum over interactions to train on {self.processes.size} "
                    f"processes; got {type(model).__name__}, whose batches are {self.batch_by}: train it on one"
                )
            for term in self.terms:
                expect_divided(term.method)
        self.objective = Objective(model, self.terms, base_weight)
        # A seed from here on would not change the model that was handed in: the caller seeds that.
        # Before anything has learned; hashes of tables in files are for those who compare them.
        compared = self.folder is not None or self.share is not None
        self._described = self._describe() if compared else {}
        self.parameters = [p for part in (model, *(t.method for t in self.terms)) for p in part.parameters()]
        self.optimizers = self._optimizers()
        self.history: list[dict] = []
        self.epoch = 0  # the next to run
        self.best: dict[str, torch.Tensor] = {}
        self._best_teachers: dict[int, dict[str, torch.Tensor]] = {}  # by term
        self.best_epoch = -1
        self.seconds = 0.0
        self._train = dataset.train.csr()
        self._users, self._positives = dataset.train.users, dataset.train.items
        self._positions = within_row_positions(self._users)

    def _expect_measurable(self) -> None:
        """Before an epoch is spent."""
        if self.evaluation is None:
            expect_chosen(self.config.metric)
        if self.evaluation is None and self.config.evaluate_test and not len(self.dataset.test):
            raise ValueError(
                f"config: expected a test part for evaluate_test; got none in {self.dataset.name}"
            )

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        config, lazy = self.config, self.config.optimizer in LAZY
        if lazy and not hasattr(self.model, "sparse_grad"):
            raise TypeError(
                f"Trainer: expected a model with tables() and sparse_grad for {config.optimizer}; "
                f"got {type(self.model).__name__}"
            )
        self._given_sparse_grad = getattr(self.model, "sparse_grad", None)
        self._choose_gradients()
        tables = self.model.tables() if lazy else []
        others = [p for p in self.parameters if all(p is not table for table in tables)]
        return make_optimizers(config.optimizer, tables, others, config.learning_rate, config.weight_decay)

    def _choose_gradients(self) -> None:
        if self._given_sparse_grad is not None:
            self.model.sparse_grad = self.config.optimizer in LAZY or self._have_copies  # less to send

    def _hand_back(self) -> None:
        """The model's gradients as they were before, for whoever trains it next; an interrupted epoch's decay ends."""
        if self._given_sparse_grad is not None:
            self.model.sparse_grad = self._given_sparse_grad
        if any(isinstance(optimizer, LazySGD) for optimizer in self.optimizers.values()):
            self.model.before_reading = None

    def fit(self) -> list[dict]:
        """Trains to the end, from the folder's checkpoint where there is one; returns the evaluations."""
        with ExitStack() as stack:
            stack.callback(self._hand_back)
            self._control = stack.enter_context(Processes.on_cpu("Trainer", self.processes.group))
            self._expect_agreement()
            with self._control.together():
                self._expect_lists()
                if self._is_first and self.folder is not None:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    stack.enter_context(alone_in(self.folder, "Trainer", "training", LOCK))
                    self._expect_own_kind()
                    for name in (CHECKPOINT, LOG):
                        remove_partial(self.folder / name)
            return self._fit()

    def _fit(self) -> list[dict]:
        self._resume()
        writer = self._tensorboard()
        for epoch in self.progress(range(self.epoch, self.config.epochs)):
            if self._finished():
                break
            started = time.perf_counter()
            loss = self.train_epoch(epoch)
            self._expect_copies(epoch)
            self.seconds += time.perf_counter() - started
            with self._control.together():
                if self.after_epoch is not None and (self._is_first or not self.held.read_alike):
                    self.after_epoch(epoch, self.model)
            record = {"epoch": epoch, "loss": loss, "seconds": round(self.seconds, 3)}
            if self._evaluates(epoch):
                record |= self.evaluate()
                self._remember(record)
            self.history.append(record)
            self.epoch = epoch + 1
            self._keep(record)
            with self._control.together():
                if self._is_first:
                    self._log(record, writer)
                    if self.after_record is not None:
                        self.after_record(dict(record))
        if writer is not None:
            writer.close()
        if self.config.keep_best and self.best:
            self.model.load_state_dict(self.best)
            for i, state in self._best_teachers.items():
                self.terms[i].method.trained_teacher.load_state_dict(state)
        return self.history

    @flushed_denormals()
    def train_epoch(self, epoch: int) -> float:
        """One pass over the train interactions; returns the mean loss per interaction."""
        config = self.config
        self._choose_gradients()
        if hasattr(self.model, "begin_epoch"):
            self.model.begin_epoch(epoch)
        for term in self.terms:
            term.method.begin_epoch(epoch, self.model)
        device = self.device
        users, positives, negatives = (t.to(device) for t in self._epoch_interactions(epoch))
        total = torch.zeros((), dtype=torch.float64, device=device)
        self.model.train()
        lazy_decay = [o for o in self.optimizers.values() if isinstance(o, LazySGD)]
        reading = None
        if lazy_decay:
            if self._have_copies:
                reading = Reading(lazy_decay[0], self.model.tables())
            self.model.before_reading = lazy_decay[0].catch_up if reading is None else reading.note
        for rows in batch_rows(
            {"users": users, "items": positives}.get(self.batch_by), len(users), config.batch_size
        ):
            loss = self.batch_loss(Batch(users[rows], positives[rows], negatives[rows], self.share))
            for optimizer in self.optimizers.values():
                optimizer.zero_grad(set_to_none=True)
            # The share of a small batch may be empty; that of divided tables has gradients all the same.
            if loss.requires_grad:
                loss.backward()
            if self.share is not None:
                self._add_up_gradients(reading)
            for optimizer in self.optimizers.values():
                optimizer.step()
            total += loss.detach()
        if lazy_decay:
            self.model.before_reading = None
            lazy_decay[0].catch_up()
        mean = sum(self.processes.share(float(total))) / max(len(users), 1)
        if mean != mean or abs(mean) == float("inf"):
            raise FloatingPointError(f"Trainer: expected a finite loss; got {mean} in epoch {epoch}")
        return mean

    def batch_loss(self, batch: Batch) -> torch.Tensor:
        """The weighted sum of the model's own loss and every term's."""
        return self.objective(batch)

    def _add_up_gradients(self, reading: Reading | None) -> None:
        if reading is not None:
            reading.catch_up(self.processes)
        reduce_gradients(self.held.unsummed(self.parameters), self.processes.group)
        lazy = self.model.tables() if self.config.optimizer in LAZY else []
        for p in self.parameters:
            if p.grad is not None and p.grad.is_sparse and all(p is not table for table in lazy):
                p.grad = p.grad.to_dense()

    @property
    def device(self) -> torch.device:
        return next(iter(self.parameters)).device

    @property
    def learned_epochs(self) -> int:
        """How many epochs the model has learned for: with the weights of the best validation, fewer than it ran."""
        return self.best_epoch + 1 if self.config.keep_best and self.best else self.epoch

    def evaluate(self) -> dict[str, float]:
        """Metrics of the validation part, "valid/name@cutoff", and of the test part where asked for.

        Several processes call it together: each ranks for its part of the users.
        """
        if self.evaluation is not None:
            self.model.eval()
            return self.evaluation(self.model)
        names, cutoffs = taken_apart([self.config.metric])
        cutoffs, metrics = sorted({*CUTOFFS, *cutoffs}), list(dict.fromkeys((*USUAL, *names)))
        parts = ["valid"] * (len(self.dataset.valid) > 0) + ["test"] * self.config.evaluate_test
        self.model.eval()
        return {
            f"{part}/{key}": value
            for part in parts
            for key, value in self.held.evaluate(
                self._control,
                getattr(self.dataset, part).csr(),
                self.dataset.held_out_exclude(part),
                cutoffs,
                metrics,
            ).items()
        }

    @property
    def batch_by(self) -> str:
        return getattr(self.model, "batch_by", "interactions")

    def _epoch_interactions(self, epoch: int):
        seed = self.config.seed
        drawn = None
        for term in self.terms:
            drawn = term.method.negatives(epoch, self._users, self._positives) if drawn is None else drawn
        if drawn is None:
            n = self.config.n_negatives
            drawn = sample_negatives(self._users, self._positions, self._train, n, seed=seed, epoch=epoch)
            # A user who has every item has no negative: no pair of such an interaction. Fewer than asked for will do.
            none = (drawn < 0).all(1)
            if self.batch_by == "interactions" and bool(none.any()):
                kept = ~none
                return self._shuffled(epoch, self._users[kept], self._positives[kept], drawn[kept])
        return self._shuffled(epoch, self._users, self._positives, drawn)

    def _shuffled(self, epoch: int, *columns: torch.Tensor):
        generator = torch.Generator().manual_seed(epoch_seed(self.config.seed, epoch))
        if self.batch_by == "interactions":
            order = torch.randperm(len(columns[0]), generator=generator)
        else:  # users or items in random order, each with its interactions in theirs
            ids, n = (
                (columns[0], self._train.n_rows)
                if self.batch_by == "users"
                else (columns[1], self._train.n_columns)
            )
            order = torch.argsort(torch.randperm(n, generator=generator)[ids], stable=True)
        return [column.index_select(0, order) for column in columns]

    def _evaluates(self, epoch: int) -> bool:
        every = self.config.evaluate_every
        return epoch == self.config.epochs - 1 or (every > 0 and epoch % every == 0)

    def _remember(self, record: dict) -> None:
        key = f"valid/{self.config.metric}"
        if key not in record:
            return
        best = max((r[key] for r in self.history if key in r), default=-1.0)
        if record[key] > best:
            self.best_epoch = record["epoch"]
            self.best = copied_state(self.model)
            self._best_teachers = {i: copied_state(teacher) for i, teacher in self._teachers()}

    def _teachers(self) -> Iterator[tuple[int, nn.Module]]:
        """The teachers that train along, by term."""
        found = ((i, term.method.trained_teacher) for i, term in enumerate(self.terms))
        return ((i, teacher) for i, teacher in found if teacher is not None)

    def _describe(self) -> dict[str, Fact]:
        """What is trained, on what, and what it learns from: as far as that is there before the training."""
        facts = {"base_weight": self.base_weight, "number of terms": len(self.terms)}
        facts |= plain_facts_of(self.model, "model") | facts_of(self.dataset, "data")
        # Of divided tables any share will do.
        whole = {id(tensor) for tensor in self.held.equal(self.model.parameters())}
        shapes = {key: list(p.shape) for key, p in self.model.named_parameters() if id(p) in whole}
        facts |= {f"shape of model.{key}": str(shape) for key, shape in shapes.items()}
        for i, (weight, method) in enumerate(self.terms):
            facts |= {f"weight of term {i}": weight} | lasting_facts_of(method, f"term {i}")
        return {at: fact for at, fact in facts.items() if at.rpartition(".")[2] not in UNTOLD}

    def _finished(self) -> bool:
        waited = (evaluations_since_best(self.history, f"valid/{metric}") for metric in self.watched)
        return 0 < self.config.patience <= min(waited)

    @property
    def _is_first(self) -> bool:
        return self.processes.rank == 0

    @property
    def _have_copies(self) -> bool:
        """Several processes read the same rows of tables."""
        return self.share is not None and self.held.read_alike

    def _expect_agreement(self) -> None:
        """All processes have the same data, settings, teachers and, here, the same model, but for rows that are divided."""
        if self.share is None:
            return
        facts = {f"training.{name}": value for name, value in asdict(self.config).items()}
        facts |= {"folder or none": self.folder is not None} | self._described
        facts |= facts_of(self.model, "model")
        for i, term in enumerate(self.terms):
            facts |= facts_of(term.method, f"term {i}")
        self._control.same(**facts)

    def _expect_copies(self, epoch: int) -> None:
        """All processes still have the same weights, but for rows that are divided."""
        if self.share is None:
            return
        found = self._control.share(checksum(self.held.equal(self.parameters)))
        if len(set(found)) > 1:
            raise RuntimeError(
                f"Trainer: expected the same weights on all processes after epoch {epoch}; got checksums {found}"
            )

    def _keep(self, record: dict) -> None:
        if self.folder is None:
            return
        last = record["epoch"] == self.config.epochs - 1 or self._finished()
        least = self.seconds_between_checkpoints
        if "valid/" + self.config.metric not in record:
            least = max(least, SECONDS_WITHOUT_CHECKPOINT, SAVES_APART * self._saving_took)
        started = time.monotonic()
        if not self._control.share(last or started - self._kept_at >= least)[0]:  # clocks differ
            return
        facts = {
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "history": self.history,
            "seconds": self.seconds,
            "processes": self.processes.size,
        }
        facts |= {
            "config": asdict(self.config),
            "trained": type(self.model).__name__,
            "described": self._described,
        }
        states = {"best": self.best} | {f"best_teacher{i}": state for i, state in self._best_teachers.items()}
        states |= {f"term{i}": term.method.state_dict() for i, term in enumerate(self.terms)}
        self.held.save(self._control, self.folder, self.optimizers, states, facts)
        self._kept_at = time.monotonic()
        self._saving_took = self._kept_at - started

    def _log(self, record: dict, writer) -> None:
        if self.folder is None:
            return
        with open(self.folder / LOG, "a", encoding="utf-8") as log:
            log.write(json.dumps(record) + "\n")
        if writer is not None:
            for name, value in record.items():
                if name != "epoch":
                    writer.add_scalar(name, value, record["epoch"])

    def _resume(self) -> None:
        if self.folder is None:
            return
        read = self.held.load(self._control, self.folder, self.optimizers, self._expect_same)
        if read is not None:
            states, facts = read
            for i, term in enumerate(self.terms):
                term.method.load_state_dict(states.get(f"term{i}", {}))
            self.best, self.best_epoch = states.get("best", {}), facts["best_epoch"]
            self._best_teachers = {
                i: states[f"best_teacher{i}"] for i, _ in self._teachers() if f"best_teacher{i}" in states
            }
            self.history, self.epoch, self.seconds = facts["history"], facts["epoch"], facts["seconds"]
            logger.info("resumed %s after epoch %d", self.folder, self.epoch - 1)
            before = facts.get("processes", 1)
            if before != self.processes.size:
                logger.info(
                    "%d processes in place of %d: sums are rounded otherwise", self.processes.size, before
                )
        with self._control.together():
            if self._is_first:
                # The log of an interrupted run may be ahead of its checkpoint, or end in half a line.
                write_text(self.folder / LOG, "".join(json.dumps(record) + "\n" for record in self.history))

    def _expect_lists(self) -> None:
        """What methods learn from names items only: one more reading, as an epoch's."""
        held = (value for term in self.terms for _, value in attributes(term.method, ""))
        for rankings in {id(value): value for value in held if isinstance(value, Rankings)}.values():
            rankings.expect_lists()

    def _expect_own_kind(self) -> None:
        for name, kind in ((CHECKPOINT, "a whole model"), (ROWS, "tables divided by rows")):
            if name != self.held.checkpoint and (self.folder / name).exists():
                raise ValueError(
                    f"Trainer: expected no checkpoint, or {self.held.checkpoint}, in {self.folder}; got {name}, of {kind}. "
                    "Choose another folder"
                )

    def _expect_same(self, facts: dict) -> None:
        """A checkpoint of this model, these data, settings and methods, and of no more epochs."""
        if not {"config", "described", "epoch"} <= facts.keys():
            raise ValueError(
                f"Trainer: expected a checkpoint that says what it is of; got one without in {self.folder}. "
                "Choose another folder, or delete the checkpoint to start afresh"
            )
        found, wanted = facts["config"] | facts["described"], asdict(self.config) | self._described
        different = [
            name for name in {**wanted, **found}
            if found.get(name) != wanted.get(name) and name not in ("epochs", "patience")
        ]  # fmt: skip
        if different:
            name = different[0]
            raise ValueError(
                f"Trainer: expected {name}={found.get(name)!r}, as the checkpoint in {self.folder}; got {wanted.get(name)!r}. "
                "Choose another folder, or delete the checkpoint to start afresh"
            )
        if facts["epoch"] > self.config.epochs:
            raise ValueError(
                f"Trainer: expected epochs of {facts['epoch']} or more, as many as the checkpoint in {self.folder} has; "
                f"got {self.config.epochs}. Choose another folder"
            )

    def _tensorboard(self):
        if self.folder is None or not self._is_first:
            return None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            logger.info("no TensorBoard log: tensorboard is not installed (pip install 'rankdistill[train]')")
            return None
        return SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.epoch)


def held_by(model: nn.Module, processes: Processes) -> Copies | Slices:
    """What processes hold of a model: each the whole, or its rows of divided tables."""
    return Slices(model, processes) if tables_of(model) else Copies(model, processes)


def copied_state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def evaluations_since_best(history: Sequence[dict], key: str) -> int:
    """How many evaluations came after the (first) best of a metric."""
    values = [record[key] for record in history if key in record]
    return len(values) - 1 - values.index(max(values)) if values else 0


def batch_rows(ids: torch.Tensor | None, n: int, batch_size: int) -> Iterator[slice]:
    """Stretches of n rows: batch_size of them each, or the rows of batch_size different ids, equal ones side by side."""
    if ids is None:
        starts = list(range(0, n, batch_size))
    else:
        first = torch.ones_like(ids, dtype=torch.bool)
        first[1:] = ids[1:] != ids[:-1]
        starts = first.nonzero()[::batch_size, 0].tolist()
    yield from map(slice, starts, [*starts[1:], n])


class Reading:
    """Rows of tables that a lazy optimiser has decay to catch up for: on all processes the same ones at the same step, or
    copies would differ by roundings."""

    def __init__(self, optimizer: LazySGD, tables: Sequence[Tensor]) -> None:
        self.optimizer, self.tables = optimizer, tables
        self.read: list[list[Tensor]] = [[] for _ in tables]

    def note(self, table: Tensor, ids: Tensor) -> None:
        """Rows that this process is about to read."""
        self.optimizer.catch_up(table, ids)
        at = next(i for i, known in enumerate(self.tables) if known is table)
        self.read[at].append(ids.detach().flatten())

    def catch_up(self, processes: Processes) -> None:
        """Catches up what any process has read since the last time."""
        none = torch.empty(0, dtype=torch.int64, device=self.tables[0].device)
        mine = [torch.unique(torch.cat([none, *read])) for read in self.read]
        for table, ids in zip(self.tables, gather_ids(processes, mine)):
            self.optimizer.catch_up(table, ids)
        self.read = [[] for _ in self.tables]
