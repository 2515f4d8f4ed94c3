"""Where a study's interactions come from: a folder of prepared files, or a download that is split here."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rankdistill.data import DATASETS, Dataset, fetch, load, read_interactions

VARIABLE = "RANKDISTILL_DATA"


@dataclass(frozen=True)
class DataSource:
    """A data set of studies.

    Args:
        name: for titles.
        folder: beneath the folder of data sets, with train, valid and test files.
        download: its name in `DATASETS`, where it can be downloaded.
        least: interactions of a user that is kept of a download.
        split: of a download that comes without one.
    """

    name: str
    folder: str
    download: str | None = None
    least: int = 1
    split: str = "leave_one_out"

    def open(self, data: str | None) -> tuple[Dataset, str]:
        """The data set, and where it came from.

        Args:
            data: a folder that holds `folder`, or one with train, valid and test files itself; the variable
                RANKDISTILL_DATA by default, else a download.

        Raises:
            ValueError: neither a folder nor a download. OSError: a download failed.
        """
        base = data or os.environ.get(VARIABLE)
        if base:
            for path in (Path(base) / self.folder, *([Path(base)] if data else [])):
                if path.is_dir() and any(file.name.startswith("train.") for file in path.iterdir()):
                    return self._named(
                        load("./" + str(path) if str(path) in DATASETS else str(path))
                    ), f"{path.name}/"
            if data or self.download is None:
                raise ValueError(
                    f"reproduce: expected a folder with {self.folder}/train.…, or with train.… itself; got {base}"
                )
        if self.download is None:
            raise ValueError(
                f"reproduce: expected a folder with {self.folder}/train.… as --data or {VARIABLE}, for {self.name} is not "
                "downloaded; got none"
            )
        return self._downloaded()

    def _downloaded(self) -> tuple[Dataset, str]:
        source = DATASETS[self.download]
        if "all" not in source.files:
            return self._named(load(self.download)), f"downloaded as {self.download}, in its own split"
        raw = read_interactions(fetch(source) / source.files["all"].name, **source.reader)
        _, user, counts = np.unique(raw.users, return_inverse=True, return_counts=True)
        kept = Dataset.from_interactions(
            raw.select((counts[user] >= self.least).nonzero()[0]), split=self.split, seed=0, name=self.name
        )
        return kept, (
            f"downloaded as {self.download}, users with {self.least} or more, split here ({self.split}, seed 0): not the "
            "split of the published numbers"
        )

    def _named(self, dataset: Dataset) -> Dataset:
        return dataclasses.replace(dataset, name=self.name)


CITEULIKE_FULL = DataSource("CiteULike", "citeulike/loo_full_ranking", "citeulike-t", 5)
CITEULIKE_CANDIDATES = DataSource("CiteULike", "citeulike/loo", "citeulike-t", 5)
MOVIELENS = DataSource("ML-1M", "ml-1m", "ml-1m")
GOWALLA = DataSource("Gowalla", "gowalla")
