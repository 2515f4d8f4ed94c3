"""A teacher's training as rankings: what it ranked at several moments, kept as K ids per user each."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rankdistill.data.dataset import Dataset
from rankdistill.models.ranked import seen_rankings, unseen_rankings
from rankdistill.rankings import Rankings
from rankdistill.vector_scores import device_of

LAST, SEEN = "last.safetensors", "seen.safetensors"
MOMENT = re.compile(r"after_(\d+)\.safetensors")
AFTER = "after_epochs"  # in a file's metadata
SEEN_SHARE = 10  # of K train items are kept, one in so many, as released


@dataclass
class Trajectory:
    """Keeps a model's rankings while it trains: a `Trainer` calls it after every epoch, its caller `finish` at the end.

    Args:
        folder: made where there is none.
        every: epochs between two rankings.
        k: K, items per user.
        dataset: whose train items are left out, and ranked among themselves at the end.
    """

    folder: str | os.PathLike
    every: int
    k: int
    dataset: Dataset
    _begun: bool = False

    def __post_init__(self) -> None:
        for name, value in (("every", self.every), ("k", self.k)):
            if value < 1:
                raise ValueError(f"trajectory: expected {name} of 1 or more; got {value}")

    def __call__(self, epoch: int, model) -> None:
        folder = Path(self.folder)
        if not self._begun:
            self._begun = True
            # What an earlier run kept of later epochs, or of its end, is no part of this one.
            for later in [folder / LAST, folder / SEEN, *(path for n, path in moments(folder) if n > epoch)]:
                later.unlink(missing_ok=True)
        if (epoch + 1) % self.every == 0:
            self._save(f"after_{epoch + 1:06d}.safetensors", model, epoch + 1)

    def finish(self, model, epochs: int) -> None:
        """Keeps what the trained model ranks, which has learned for `epochs` epochs."""
        self._save(LAST, model, epochs)
        seen_rankings(model, self.dataset, max(1, self.k // SEEN_SHARE)).save(Path(self.folder) / SEEN)

    def _save(self, name: str, model, epochs: int) -> None:
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        kept = {AFTER: str(epochs)}
        rankings = unseen_rankings(model, self.dataset, self.k, metadata=kept, device=device_of(model))
        rankings.save(Path(self.folder) / name)


def moments(folder: Path) -> list[tuple[int, Path]]:
    """(epochs, file) of what was kept on the way, in order."""
    if not folder.is_dir():
        return []
    found = ((MOMENT.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), path) for match, path in found if match)


@dataclass(frozen=True)
class KeptTrajectory:
    """A teacher's rankings at moments of its training, the trained teacher's last, and its ranking of train items."""

    checkpoints: list[Rankings]
    seen: Rankings

    @classmethod
    def load(cls, folder: str | os.PathLike, dataset: Dataset, least: int = 1) -> KeptTrajectory:
        """What `Trajectory` kept; moments later than the one that the trained model was taken from are left out.

        Args:
            folder: of the trajectory.
            dataset: of the teacher.
            least: moments before the last that there must be.

        Raises:
            FileNotFoundError: no finished trajectory.
            ValueError: of another data set, or with fewer than `least` moments before the last.
        """
        folder, ids = Path(folder), {"user_vocabulary": dataset.users, "item_vocabulary": dataset.items}
        for name in (LAST, SEEN):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"trajectory: expected a folder of a finished training with trajectory.every; "
                    f"got {folder}, without {name}"
                )
        last = Rankings.load(folder / LAST, **ids)
        epochs = int(last.metadata[AFTER])
        before = [Rankings.load(path, **ids) for n, path in moments(folder) if n < epochs]
        if len(before) < least:
            raise ValueError(
                f"trajectory: expected a ranking or more before the last, which is of epoch {epochs}; got none in {folder}"
                f"{_why_none(epochs, moments(folder))}"
            )
        return cls([*before, last], Rankings.load(folder / SEEN, **ids))


def _why_none(epochs: int, later: list[tuple[int, Path]]) -> str:
    """What to do where the first ranking was kept too late, perhaps after the best validation."""
    cures = [f"trajectory.every below {epochs}"] * (epochs > 1) + ["training.keep_best false"] * bool(later)
    cause = (
        f": the first is of epoch {later[0][0]}, and with keep_best the teacher is that of its best validation"
        if later
        else ""
    )
    return f"{cause}. Train the teacher anew, in another folder, with {' or '.join(cures or ['more epochs'])}"


def evenly(trajectories: Sequence[KeptTrajectory]) -> list[list[Rankings]]:
    """As many checkpoints of each as the shortest has, spread evenly, the last one always."""
    count = min(len(kept.checkpoints) for kept in trajectories)
    return [
        [kept.checkpoints[round((v + 1) * len(kept.checkpoints) / count) - 1] for v in range(count)]
        for kept in trajectories
    ]
