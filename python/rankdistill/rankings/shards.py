"""A folder of rankings: shards by users, an index when all are there, and what an unfinished one was begun with.

    rankings-00000-of-00031.safetensors …   the lists of `shard_size` users each (the last: of the rest)
    rankings.json                           the index; written last, so a folder with it is whole
    rankings.begun.json                     until then: the settings; a run with others is refused
    ids.safetensors                         the external ids of users and items, where they were given

A shard is a rankings file of its users. Names and bytes depend on the settings and the tables alone.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from rankdistill.files import alone_in, json_in, write_text
from rankdistill.rankings.mapping import mapped
from rankdistill.rankings.safetensors_files import Entry, TensorFile, read_header

FORMAT = "rankdistill.rankings"
FORMAT_VERSION = 1
INDEX, BEGUN, IDS = "rankings.json", "rankings.begun.json", "ids.safetensors"
SHARD_UNIT = 1024  # users; lists of so many fill whole pages, so that shards can be mapped as one table
SHARD_BYTES = 32 << 20


@dataclass(frozen=True)
class Settings:
    """What rankings depend on: sizes, and a description with a SHA-256 of every table.

    `exclude` and `item_bias` are empty where there are none.
    """

    n_users: int
    n_items: int
    k: int
    shard_size: int
    users: str
    items: str
    exclude: str
    item_bias: str
    metadata: dict[str, str]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def n_shards(self) -> int:
        return -(-self.n_users // self.shard_size)

    def shard_users(self, shard: int) -> range:
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.n_users))

    def shard_file(self, shard: int) -> str:
        return f"rankings-{shard:05d}-of-{self.n_shards:05d}.safetensors"

    @property
    def shards(self) -> list[dict]:
        """As the index lists them."""
        users = map(self.shard_users, range(self.n_shards))
        return [
            {"file": self.shard_file(shard), "first_user": those.start, "users": len(those)}
            for shard, those in enumerate(users)
        ]


def is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def is_text(value: object) -> bool:
    return isinstance(value, str)


def are_texts(value: object) -> bool:
    return isinstance(value, dict) and all(map(is_text, value.values()))


FITS = {"int": is_count, "str": is_text, "dict[str, str]": are_texts}  # by the annotations of Settings
HEADER = {"n_items": is_count, "metadata": are_texts}


def default_shard_size(k: int) -> int:
    """Users of a shard of some 32 MiB: a multiple of 16384, so that their lists fill pages of 64 KiB too."""
    unit = 16 * SHARD_UNIT
    return max(1, SHARD_BYTES // (8 * k + 4) // unit) * unit


def tensors_of(users: int, k: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """The tensors of a rankings file, in the order that they lie in it."""
    return {
        "indices": (torch.int32, (users, k)), "lengths": (torch.int32, (users,)), "scores": (torch.float32, (users, k))
    }  # fmt: skip


def file_metadata(n_items: int, metadata: dict[str, str], **more: object) -> dict[str, str]:
    """The header of a rankings file: one JSON text, so that its bytes have one order."""
    header = {"version": FORMAT_VERSION, "n_items": n_items, "metadata": metadata, **more}
    return {FORMAT: json.dumps(header, sort_keys=True)}


def read_rankings_header(op: str, path: str | os.PathLike) -> tuple[dict[str, Entry], dict]:
    """Where the tensors of a rankings file lie, and its header: whole, with fields of their types."""
    entries, metadata = read_header(op, path)
    if FORMAT not in metadata:
        raise ValueError(f"{op}: expected a rankings file; got {path} without a {FORMAT} header")
    wrong = [
        name
        for name, (dtype, _) in tensors_of(0, 0).items()
        if name not in entries or entries[name].dtype != dtype
    ]
    if wrong:
        raise ValueError(
            f"{op}: expected int32 indices and lengths, float32 scores; got {path} without {wrong[0]}"
        )
    shapes = {name: entries[name].shape for name in tensors_of(0, 0)}
    if len(shapes["indices"]) != 2 or shapes != {
        name: shape for name, (_, shape) in tensors_of(*shapes["indices"]).items()
    }:
        got = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise ValueError(f"{op}: expected indices and scores [U, K], lengths [U]; got {got} in {path}")
    header = json_in(op, path, metadata[FORMAT])
    if header.get("version") != FORMAT_VERSION:
        raise ValueError(
            f"{op}: expected format version {FORMAT_VERSION}; got {header.get('version')!r} in {path}"
        )
    wrong = [name for name, fits in HEADER.items() if not fits(header.get(name))]
    if wrong:
        raise ValueError(
            f"{op}: expected a header with a whole n_items and metadata of strings in {path}; got {wrong[0]}="
            f"{header.get(wrong[0])!r}"
        )
    return entries, header


def read_settings(op: str, path: Path) -> dict:
    """The index of a folder, or the record of an extraction begun in it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if (
            found["format"] == FORMAT
            and found["version"] == FORMAT_VERSION
            and isinstance(found["settings"], dict)
        ):
            return found
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{op}: expected what an extraction writes in {path}; got other contents") from error
    raise ValueError(
        f"{op}: expected {FORMAT} of version {FORMAT_VERSION} in {path}; got {found['format']}, {found['version']}"
    )


def settings_in(op: str, path: Path, found: dict) -> Settings:
    """The settings that `read_settings` found, each of its type."""
    given, names = found["settings"], {f.name: f.type for f in fields(Settings)}
    wrong = [n for n in names if not FITS[names[n]](given.get(n))] + [n for n in given if n not in names]
    if not wrong and given["shard_size"] < 1:
        wrong = ["shard_size"]
    if wrong:
        raise ValueError(
            f"{op}: expected the settings that an extraction writes in {path}; got {wrong[0]}={given.get(wrong[0])!r}"
        )
    return Settings(**given)


def open_folder(op: str, folder: str | os.PathLike) -> tuple[dict[str, Tensor], dict]:
    """The tensors of all shards of a folder as one each, and the settings."""
    folder = Path(folder)
    if not (folder / INDEX).exists():
        if not (folder / BEGUN).exists():
            raise FileNotFoundError(f"{op}: expected rankings in {folder}; got a folder without {INDEX}")
        begun = settings_in(op, folder / BEGUN, read_settings(op, folder / BEGUN))
        there = len(list(folder.glob("rankings-*-of-*.safetensors")))
        raise ValueError(
            f"{op}: expected a finished extraction in {folder}; got {there} of its {begun.n_shards} shards. "
            "Run the same extraction again: it goes on from there"
        )
    index = read_settings(op, folder / INDEX)
    settings, stretches = settings_in(op, folder / INDEX, index), {name: [] for name in tensors_of(0, 0)}
    if index.get("shards") != settings.shards or index.get("settings_sha256") != settings.sha256:
        raise ValueError(
            f"{op}: expected the shards of its settings in {folder / INDEX}; got others, a damaged file"
        )
    for shard in settings.shards:
        path = folder / shard["file"]
        if not path.exists():
            raise FileNotFoundError(
                f"{op}: expected all shards of {folder / INDEX}; got none at {shard['file']}. "
                "Run the same extraction again: it makes what is missing"
            )
        entries, header = read_shard_header(op, path)
        found = {name: (entries[name].dtype, entries[name].shape) for name in stretches}
        if (
            header.get("settings") != settings.sha256
            or header.get("first_user") != shard["first_user"]
            or found != tensors_of(shard["users"], settings.k)
        ):
            raise ValueError(
                f"{op}: expected the shards that {folder / INDEX} names; got another at {shard['file']}"
            )
        for name, parts in stretches.items():
            parts.append(entries[name].stretch)
    tensors = {}
    for name, (dtype, shape) in tensors_of(settings.n_users, settings.k).items():
        tensors[name] = mapped(stretches[name]).view(dtype).view(shape)
    return tensors, asdict(settings)


def read_shard_header(op: str, path: Path) -> tuple[dict[str, Entry], dict]:
    """`read_rankings_header` of a shard; the error of a damaged one says how to get another."""
    try:
        return read_rankings_header(op, path)
    except ValueError as error:
        text = f"{error}. Delete that file and run the same extraction again: it makes what is missing"
        raise ValueError(text) from error


def clear_folder(folder: str | os.PathLike) -> None:
    """Removes what an extraction leaves in a folder, the index first."""
    for pattern in (INDEX, BEGUN, IDS, "rankings-*-of-*.safetensors", ".rankings*.partial"):
        for path in Path(folder).glob(pattern):
            path.unlink(missing_ok=True)


def remove_folder(folder: str | os.PathLike) -> None:
    """Removes an extraction's folder, unless others keep files in it."""
    clear_folder(folder)
    with suppress(OSError):
        os.rmdir(folder)


class ShardedFolder:
    """The files of one extraction in a folder.

    Args:
        op: whom errors speak of.
        folder: need not exist.
        settings: of the extraction.
    """

    def __init__(self, op: str, folder: str | os.PathLike, settings: Settings) -> None:
        self.op, self.folder, self.settings = op, Path(folder), settings
        self._open: tuple[int, TensorFile, int] | None = None  # shard, its file, users still to come

    def path(self, shard: int) -> Path:
        return self.folder / self.settings.shard_file(shard)

    def begin(self, resume: bool) -> list[int] | None:
        """Which shards are still to be written; None if the extraction has been finished and all are there.

        Records the settings. A ValueError if the folder belongs to another extraction; `resume=False` clears it first.
        """
        with self.named_errors():
            self.folder.mkdir(parents=True, exist_ok=True)
            if not resume:
                clear_folder(self.folder)
            for name in (INDEX, BEGUN):
                if (self.folder / name).exists():
                    self._expect_same(read_settings(self.op, self.folder / name)["settings"], name)
            for partial in self.folder.glob(".rankings*.partial"):
                partial.unlink(missing_ok=True)
            missing = [shard for shard in range(self.settings.n_shards) if not self.is_written(shard)]
            if (self.folder / INDEX).exists() and not missing:
                (self.folder / BEGUN).unlink(missing_ok=True)
                return None
            begun = {"format": FORMAT, "version": FORMAT_VERSION, "settings": asdict(self.settings)}
            write_text(self.folder / BEGUN, _as_json(begun))
            (self.folder / INDEX).unlink(missing_ok=True)  # of a finished one that has lost shards since
            return missing

    @contextmanager
    def locked(self) -> Iterator[None]:
        """No other process extracts into the folder meanwhile; a killed process holds no lock."""
        with self.named_errors():
            self.folder.mkdir(parents=True, exist_ok=True)
        with alone_in(self.folder, self.op, "extraction"):
            yield

    def is_written(self, shard: int) -> bool:
        """Whether the shard is there; a ValueError where a file of another extraction has its name."""
        path = self.path(shard)
        if not path.exists():
            return False
        entries, header = read_shard_header(self.op, path)
        expected = tensors_of(len(self.settings.shard_users(shard)), self.settings.k)
        found = {name: (entry.dtype, entry.shape) for name, entry in entries.items()}
        if header.get("settings") != self.settings.sha256 or found != expected:
            raise ValueError(
                f"{self.op}: expected shards of this extraction; got {path} of another. "
                "Choose another folder, or begin anew with resume=False (--resume false)"
            )
        return True

    def put(self, first_user: int, scores: Tensor, indices: Tensor) -> None:
        """The lists of consecutive users; the users of a shard come in order and without gaps."""
        lengths = (indices >= 0).sum(dim=1, dtype=torch.int32)
        with self.named_errors():
            done = 0
            while done < len(lengths):
                shard = (first_user + done) // self.settings.shard_size
                users = self.settings.shard_users(shard)
                row = first_user + done - users.start
                n = min(len(lengths) - done, len(users) - row)
                file, left = self._file_of(shard)
                part = slice(done, done + n)
                file.put(row, scores=scores[part], indices=indices[part], lengths=lengths[part])
                self._open = (shard, file, left - n)
                if left == n:
                    file.finish()
                    self._open = None
                done += n

    def _file_of(self, shard: int) -> tuple[TensorFile, int]:
        if self._open is None:
            settings, users = self.settings, self.settings.shard_users(shard)
            metadata = file_metadata(
                settings.n_items,
                settings.metadata,
                settings=settings.sha256,
                first_user=users.start,
                shard=shard,
            )
            file = TensorFile(self.path(shard), tensors_of(len(users), settings.k), metadata)
            self._open = (shard, file, len(users))
        if self._open[0] != shard:
            raise RuntimeError(
                f"{self.op}: expected the rest of shard {self._open[0]}; got users of shard {shard}"
            )
        return self._open[1:]

    def close(self) -> None:
        """Throws away a shard that is not whole."""
        if self._open is not None:
            self._open[1].abandon()
            self._open = None

    def finish(self) -> None:
        """Writes the index, once every shard is there."""
        with self.named_errors():
            missing = [shard for shard in range(self.settings.n_shards) if not self.is_written(shard)]
            if missing:
                raise FileNotFoundError(
                    f"{self.op}: expected all shards in {self.folder}; got none at {self.path(missing[0]).name}. "
                    "Processes on several machines need a folder that all of them see"
                )
            index = {
                "format": FORMAT, "version": FORMAT_VERSION, "settings": asdict(self.settings),
                "settings_sha256": self.settings.sha256, "shards": self.settings.shards,
            }  # fmt: skip
            write_text(self.folder / INDEX, _as_json(index))
            (self.folder / BEGUN).unlink(missing_ok=True)

    def expect_room(self, shards: list[int]) -> None:
        """An OSError now rather than hours later, where the disk has no room for these shards."""
        users = sum(len(self.settings.shard_users(shard)) for shard in shards)
        needed = users * (8 * self.settings.k + 4)
        status = os.statvfs(self.folder)
        free = status.f_bavail * status.f_frsize
        if needed > free:
            raise OSError(
                errno.ENOSPC, f"{self.op}: expected {needed:,} bytes of room in {self.folder}; got {free:,}"
            )

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """Errors of the file system say what was being done, and what to do."""
        try:
            yield
        except OSError as error:
            if error.errno is None or (error.filename is None and str(self.op) in str(error)):
                raise
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                cure = "Finished shards stay: make room and run the same again, it goes on from there"
            else:
                cure = "Choose a folder that can be written"
            text = f"{self.op}: expected to write into {self.folder}; got {error.strerror}. {cure}"
            raise type(error)(error.errno, text) from error

    def _expect_same(self, begun: dict, name: str) -> None:
        for key, value in asdict(self.settings).items():
            if begun.get(key) != value:
                raise ValueError(
                    f"{self.op}: expected {key} as {self.folder / name} has it, {begun.get(key)}; got {value}. "
                    "Choose another folder, or begin anew with resume=False (--resume false)"
                )


def _as_json(value: dict) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
