"""The search for a method's weight and settings, by Optuna, on the validation metric alone; it goes on after a kill."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rankdistill.config import MethodConfig, ModelConfig, TrainingConfig
from rankdistill.files import AtWork, alone_in
from rankdistill.methods import METHODS, settings_of
from rankdistill.report import markdown

logger = logging.getLogger("rankdistill")

OP = "tune"
WEIGHT, TEMPERATURE = "weight", "temperature"
WEIGHT_FACTOR, TEMPERATURE_FACTOR = 100.0, 10.0
# Real numbers, beside settings with such a default.
REAL = (WEIGHT, TEMPERATURE, "training.learning_rate", "training.weight_decay")
TRAINING = ("learning_rate", "weight_decay", "batch_size", "n_negatives", "epochs")


@dataclass(frozen=True)
class Range:
    """Where a parameter is sought: from low to high, evenly or in logarithms, or some choices. Whole numbers where both are and
    the setting is one."""

    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    choices: tuple | None = None

    @classmethod
    def of(cls, name: str, given: object) -> Range:
        """The range that a setting describes: [low, high], a mapping of low, high and log, or one of choices."""
        number = lambda value: isinstance(value, (int, float)) and not isinstance(value, bool)
        if isinstance(given, (list, tuple)) and len(given) == 2:
            given = dict(zip(("low", "high"), given))
        if isinstance(given, dict) and set(given) == {"choices"}:
            choices = given["choices"]
            if (
                isinstance(choices, list)
                and choices
                and all(isinstance(c, (str, int, float)) for c in choices)
            ):
                return cls(choices=tuple(choices))
        elif isinstance(given, dict) and {"low", "high"} <= set(given) <= {"low", "high", "log"}:
            low, high, log = given["low"], given["high"], given.get("log", False)
            fits = number(low) and number(high) and isinstance(log, bool) and low < high
            if fits and (low > 0 or not log):
                return cls(low, high, log)
        raise ValueError(
            f"{OP}: expected search.{name} as [low, high], as low, high and log (low below high, above 0 for log), or as "
            f"choices; got {given!r}"
        )

    @classmethod
    def around(cls, value: float, factor: float) -> Range:
        return cls(value / factor, value * factor, log=True)

    def suggested(self, trial, name: str):
        """A value for an Optuna trial."""
        if self.choices is not None:
            return trial.suggest_categorical(name, list(self.choices))
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)


def ranges_of(method: str, weight: float | None, options: dict, search: dict) -> dict[str, Range]:
    """What is sought, by name: weight and temperature unless they are left alone, and what `search` adds.

    Args:
        method: its name.
        weight, options: as they are set; a range begins around these, or else around the method's defaults.
        search: ranges by name (see `Range.of`), None to leave one alone.
    """
    known = settings_of(method)
    allowed = (WEIGHT, *known, *(f"training.{name}" for name in TRAINING), "student.width")
    for name in search:
        if name not in allowed:
            raise ValueError(f"{OP}: expected names in search of {', '.join(allowed)}; got {name!r}")
    centre = METHODS[method].default_weight if weight is None else weight
    ranges = {WEIGHT: Range.around(centre, WEIGHT_FACTOR)} if centre > 0 else {}
    temperature = options.get(TEMPERATURE, known.get(TEMPERATURE))
    if isinstance(temperature, (int, float)) and temperature > 0:
        ranges[TEMPERATURE] = Range.around(float(temperature), TEMPERATURE_FACTOR)
    for name, given in search.items():
        ranges.pop(name, None)
        if given is not None:
            ranges[name] = Range.of(name, given)
            default = known.get(name, 0.0 if name in REAL else None)
            if isinstance(default, float) and ranges[name].choices is None:
                low, high = float(ranges[name].low), float(ranges[name].high)
                ranges[name] = replace(ranges[name], low=low, high=high)
    if not ranges:
        raise ValueError(f"{OP}: expected something to search; got {search!r} for {method}")
    return ranges


@dataclass(frozen=True)
class Trial:
    """A finished trial: its number, parameters and best validation metric (None: the loss was not finite)."""

    number: int
    parameters: dict
    value: float | None


def search(
    out: Path,
    ranges: dict[str, Range],
    run: Callable[[Path, dict], float],
    *,
    trials: int,
    study: str,
    seed: int = 0,
    storage: str | None = None,
) -> list[Trial]:
    """Runs trials until there are `trials` finished ones; one that was interrupted goes on first.

    Args:
        out: the folder; trial n has out/trial-n, and study.db is there by default.
        ranges: what is sought.
        run: (folder, parameters) → the value to be maximised; it resumes by itself from what is in the folder. A
            FloatingPointError is a trial without a value; after an OSError, `AtWork` or an interrupt the trial goes on at
            the next call; after any other error, such as no memory for a width, the next call goes on with the next one.
        trials: how many.
        study: a name in the storage, one for the same settings.
        seed: of the search: the trials are the same whether and wherever it is interrupted.
        storage: see `TuneConfig`.

    Raises:
        ValueError, RuntimeError: a trial's error, with its number and parameters.
    """
    optuna = _optuna()
    if trials < 1:
        raise ValueError(f"{OP}: expected trials of 1 or more; got {trials}")
    out.mkdir(parents=True, exist_ok=True)
    with alone_in(out, OP, "search"):
        opened = optuna.create_study(
            study_name=study,
            storage=_storage(optuna, out, storage),
            direction="maximize",
            load_if_exists=True,
        )
        folder_of = lambda trial: out / f"trial-{trial.number}"
        running = opened.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        # In a storage that is not the folder's own a trial may run for another folder.
        own = [trial for trial in running if storage is None or folder_of(trial).is_dir()]
        pending = [optuna.trial.Trial(opened, trial._trial_id) for trial in own]
        while pending or len(_finished(optuna, opened)) < trials:
            trial = pending.pop(0) if pending else opened.ask()
            folder_of(trial).mkdir(exist_ok=True)
            parameters = {}
            for name, range_ in ranges.items():
                # Draws depend on the seed, the trial and the name: the same after an interruption.
                opened.sampler = optuna.samplers.TPESampler(seed=_seed(seed, trial.number, name))
                parameters[name] = range_.suggested(trial, name)
            try:
                value = run(folder_of(trial), parameters)
            except FloatingPointError as error:
                logger.info("trial %d: %s", trial.number, error)
                opened.tell(trial, state=optuna.trial.TrialState.PRUNED)
            except (OSError, AtWork):
                raise
            except Exception as error:
                # Or it would be the first to be tried again, for good.
                opened.tell(trial, state=optuna.trial.TrialState.FAIL)
                where = f"trial {trial.number} with {parameters}"
                if isinstance(error, (ValueError, TypeError)):
                    raise ValueError(f"{where}: {error}") from error  # noqa: TRY004 (of its values)
                raise RuntimeError(f"{where}: {type(error).__name__}: {error}") from error
            else:
                opened.tell(trial, value)
                logger.info("trial %d: %.5f with %s", trial.number, value, parameters)
        return [
            Trial(trial.number, {name: trial.params[name] for name in ranges}, trial.value)
            for trial in _finished(optuna, opened)
        ]


def _optuna():
    try:
        import optuna
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise ModuleNotFoundError(
            f"{OP}: expected Optuna; got none: pip install 'rankdistill[tune]'", name="optuna"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _finished(optuna, study) -> list:
    states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    return study.get_trials(deepcopy=False, states=states)


def _storage(optuna, out: Path, storage: str | None):
    if storage is None:
        # A URL of the path would have its ?, % and {} read as something else.
        path = out.absolute() / "study.db"
        connect = {"creator": lambda: sqlite3.connect(path, check_same_thread=False)}
        return optuna.storages.RDBStorage("sqlite:///study.db", engine_kwargs=connect)
    if storage.endswith(".journal"):
        lock = _FileLock(storage)
        lock.drop_torn_line()
        backend = optuna.storages.journal.JournalFileBackend(storage, lock_obj=lock)
        return optuna.storages.JournalStorage(backend)
    if "://" not in storage:
        raise ValueError(
            f"{OP}: expected storage as a URL such as sqlite:///path.db, or a .journal file; got {storage}"
        )
    return storage


class _FileLock:
    """Optuna's lock of a journal, which a killed process does not hold on to, as it does a lock that is a file."""

    def __init__(self, path: str) -> None:
        self.path = path
        Path(path).parent.mkdir(parents=True, exist_ok=True)

    def acquire(self) -> bool:
        self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        os.close(self._handle)

    def drop_torn_line(self) -> None:
        """Half a line, as a kill may leave one, would spoil the next."""
        self.acquire()
        try:
            text = Path(self.path).read_bytes()
            os.truncate(self.path, text.rfind(b"\n") + 1)
        finally:
            self.release()


def _seed(seed: int, number: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {number} {name}".encode()).digest()[:4], "little")


def study_name(settings: dict) -> str:
    """One study for the same settings, whatever else a storage holds."""
    return f"rankdistill-{hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]}"


def applied(parameters: dict, method: MethodConfig, training: TrainingConfig, student: ModelConfig):
    """The three settings with a trial's parameters in place."""
    own = {"weight": parameters.get(WEIGHT, method.weight), "options": dict(method.options)}
    parts: dict[str, dict] = {"training": {}, "student": {}}
    for name, value in parameters.items():
        part, dot, key = name.partition(".")
        if dot:
            parts[part][key] = value
        elif name != WEIGHT:
            own["options"][name] = value
    return (
        replace(method, **own),
        replace(training, **parts["training"]),
        replace(student, **parts["student"]),
    )


def best_of(trials: Sequence[Trial]) -> Trial:
    """The trial with the best value, the earliest of equal ones."""
    valued = [trial for trial in trials if trial.value is not None]
    if not valued:
        raise ValueError(
            f"{OP}: expected a trial with a finite loss; got none of {len(trials)}: narrow the search"
        )
    return max(valued, key=lambda trial: (trial.value, -trial.number))


def as_text(trials: Sequence[Trial], metric: str) -> str:
    """A Markdown table, best first."""
    ordered = sorted(trials, key=lambda t: (t.value is None, -(t.value or 0.0), t.number))
    show = lambda value: f"{value:.4g}" if isinstance(value, float) else str(value)
    table = [["trial", f"validation {metric}", *ordered[0].parameters]]
    for trial in ordered:
        value = "not finite" if trial.value is None else f"{trial.value:.4f}"
        table.append([str(trial.number), value, *map(show, trial.parameters.values())])
    return markdown(table)
