"""One way in for every data set: by name, folder or file."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from rankdistill.config import GENERATED
from rankdistill.data.dataset import PARTS, Dataset
from rankdistill.data.download import DATASETS, fetch, nearest
from rankdistill.data.frames import is_frame
from rankdistill.data.generator import generate
from rankdistill.data.readers import guess_format, read_interactions

PART_NAMES = {"train": "train", "training": "train", "valid": "valid", "validation": "valid", "val": "valid"}
PART_NAMES |= {"dev": "valid", "test": "test"}


def load(
    name_or_path: str | os.PathLike | object,
    *,
    split: str = "random",
    ratios: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    cache: str | os.PathLike | None = None,
    **options,
) -> Dataset:
    """The data set of that name, or in that folder, file or data frame.

    Args:
        name_or_path: "generated" (`generate`); a name in `DATASETS` (`fetch`; may download); a folder with a train
            file and perhaps valid and test files; or one file, or a table in memory that `read_interactions` takes. A
            name wins over a path: "./ml-1m" is the folder.
        split, ratios, seed: as for `split_interactions`, where the data come without a split.
        cache: the folder for downloads.
        options: of `read_interactions` or, for "generated", of `generate`.

    Raises:
        TypeError: no name, path or table.
        ValueError: neither a known name nor a path; options that there are not; a folder without a train file; malformed files.
        OSError: a download failed.

    Example:
        >>> load("generated", n_users=200, n_items=100, mean_interactions=20).name
        'generated'
    """
    if is_frame(name_or_path):
        _expect_options(options, read_interactions)
        raw = read_interactions(name_or_path, **options)
        return Dataset.from_interactions(raw, split=split, ratios=ratios, seed=seed)
    if not isinstance(name_or_path, (str, os.PathLike)):
        expected = "a name, a file, a folder, or a data frame of users and items"
        raise TypeError(f"load: expected {expected}; got a {type(name_or_path).__name__}")
    name = os.fspath(name_or_path)
    _expect_options(options, generate if name == GENERATED else read_interactions)
    if name == GENERATED:
        return generate(ratios=ratios, seed=seed, **options)
    if name in DATASETS:
        source = DATASETS[name]
        folder = fetch(source, cache)
        files = {part: folder / file.name for part, file in source.files.items()}
        options = {**source.reader, **options}
    else:
        path = Path(name)
        name = path.name
        if path.is_dir():
            files = _parts(path, options.get("format"))
        elif path.exists():
            files = {"all": path}
        else:
            names = [GENERATED, *DATASETS]
            raise ValueError(
                f"load: expected one of {', '.join(names)}, a file or a folder; got {os.fspath(name_or_path)!r}"
                f"{nearest(name, names)}"
            )
    if "all" in files:
        raw = read_interactions(files["all"], **options)
        return Dataset.from_interactions(raw, split=split, ratios=ratios, seed=seed, name=name)
    return Dataset.from_files(**files, name=name, **options)


def _expect_options(options: dict[str, object], reader: Callable) -> None:
    of_load, own = (inspect.signature(each).parameters for each in (load, reader))
    known = [name for name in own if name not in (*of_load, "path")]
    for option in options:
        if option not in known:
            raise ValueError(
                f"load: expected options of {', '.join(known)}; got {option!r}{nearest(option, known)}"
            )


def _parts(folder: Path, format: str | None) -> dict[str, Path]:
    """train, valid and test among the files of a folder: one word of each name says which it is."""
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        found = {PART_NAMES[word] for word in path.name.lower().split(".") if word in PART_NAMES}
        if not found or not path.is_file() or (format is None and guess_format(path) is None):
            continue
        for part in found:
            if part in files:
                raise ValueError(
                    f"load: expected one {part} file in {folder}; got {files[part].name} and {path.name}"
                )
            files[part] = path
    if "train" not in files:
        listed = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise ValueError(
            f"load: expected a train file in {folder}, beside {' and '.join(PARTS[1:])}; got {listed}"
        )
    return files
