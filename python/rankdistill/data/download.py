"""Public data sets by name: downloaded on request into a cache, every file pinned by its SHA-256.

Imports no torch.
"""

from __future__ import annotations

import difflib
import hashlib
import http.client
import logging
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

log = logging.getLogger("rankdistill")

CHUNK = 1 << 18
TIMEOUT = 30.0  # seconds without a byte


@dataclass(frozen=True)
class RemoteFile:
    """One file of a data set, pinned by its hash.

    Args:
        name: in the cache.
        url: where it is.
        size: bytes.
        sha256: 64 hexadecimal digits.
    """

    name: str
    url: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Source:
    """A named data set.

    Args:
        name: the key in `DATASETS` and the folder in the cache.
        files: "train", "valid" and "test", or "all" for a set that comes without a split.
        reader: options of `read_interactions`.
        description: what it is.
        terms: what is known of its licence; downloading is the user's act, under these terms.
    """

    name: str
    files: Mapping[str, RemoteFile]
    description: str
    terms: str
    reader: Mapping[str, object] = field(default_factory=dict)


_LIGHTGCNPP = "https://raw.githubusercontent.com/geon0325/LightGCNpp/a18af1e1f65dc4b6a432ce5aeaae5bbe75ac1c2e/data/ml-1m"
_DEEPCF = "https://raw.githubusercontent.com/familyld/DeepCF/ad1f507842668bfbfa2161d3a3228a1dbd422571/Data"
_COLLMETRIC = "https://raw.githubusercontent.com/changun/CollMetric/5e0604d50ddaf2f0f338bde1ce5e4cade51ac144"
_GROUPLENS = "GroupLens: research use with acknowledgement; no redistribution and no commercial use without their permission"

DATASETS: dict[str, Source] = {
    source.name: source
    for source in (
        Source(
            "ml-100k",
            {
                "all": RemoteFile(
                    "u.data",
                    "https://files.grouplens.org/datasets/movielens/ml-100k/u.data",
                    1_979_173,
                    "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490",
                ),
            },
            "MovieLens 100K: 943 users, 1,682 items, 100,000 ratings with timestamps",
            _GROUPLENS,
        ),
        Source(
            "ml-1m",
            {
                "train": RemoteFile(
                    "train.txt",
                    f"{_LIGHTGCNPP}/train.txt",
                    2_499_831,
                    "dfa3a7a866feade29ca5722ac0423c1b0317ac1f6ad38a55fc1a7ceeb9cee3bb",
                ),
                "valid": RemoteFile(
                    "valid.txt",
                    f"{_LIGHTGCNPP}/valid.txt",
                    367_878,
                    "429fe0d750b304677898d7eeb1080764bbf06550b94c9508b8cc8cd0573e3dfc",
                ),
                "test": RemoteFile(
                    "test.txt",
                    f"{_LIGHTGCNPP}/test.txt",
                    718_939,
                    "0d58f78bbf606f401aec2efe3f519b945c458c8398955f986e03b880fbbd16a6",
                ),
            },
            "MovieLens 1M, the 836,478 ratings >= 3, in the split of LightGCN++ (about 70/10/20 per user)",
            _GROUPLENS,
        ),
        Source(
            "citeulike-t",
            {
                "all": RemoteFile(
                    "users.dat",
                    f"{_COLLMETRIC}/citeulike-t/users.dat",
                    770_649,
                    "02d5d429b2c0362e0ed79f6ef204666b4092563d21493abf4dfb521e8a7078bf",
                ),
            },
            "CiteULike-t: 7,947 users, 134,860 pairs of a user and a bookmarked article",
            "No licence stated; collected for research",
        ),
        Source(
            "lastfm",
            {
                "train": RemoteFile(
                    "lastfm.train.rating",
                    f"{_DEEPCF}/lastfm.train.rating",
                    910_279,
                    "aa286fd070b5063ccdb3ef847b64c927e83dbc961d8804fa8454dd8964dc6662",
                ),
                "test": RemoteFile(
                    "lastfm.test.rating",
                    f"{_DEEPCF}/lastfm.test.rating",
                    23_135,
                    "1bbe3bddddaf7c49d6c3ed204bda72d97545ce1acf98c0e0c7234aff9fcb5ce0",
                ),
            },
            "Last.fm listening counts: 1,741 users, 2,665 items, one test item per user",
            "No licence stated; HetRec 2011 data are for non-commercial research",
        ),
    )
}


def cache_folder() -> Path:
    """Where downloads are kept: the environment variable RANKDISTILL_CACHE, or ~/.cache/rankdistill."""
    return Path(os.environ.get("RANKDISTILL_CACHE") or Path.home() / ".cache" / "rankdistill")


def fetch(
    source: str | Source,
    cache: str | os.PathLike | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """The folder with the files of a named data set, downloading what the cache does not hold.

    A file appears under its name only once it is whole and its SHA-256 is right, so processes may fetch at the same
    time and an interrupted one leaves nothing. Files in the cache are checked again at every call.

    Args:
        source: a name in `DATASETS`, or a `Source`.
        cache: the folder for downloads; None for `cache_folder()`.
        progress: called as progress(file name, bytes so far, bytes in all) after every block.

    Raises:
        ValueError: an unknown name; a file of another size or SHA-256 than the pinned one.
        OSError: no network, an HTTP error, a connection that broke; a cache that cannot be written.
    """
    if isinstance(source, str):
        if source not in DATASETS:
            raise ValueError(
                f"fetch: expected one of {', '.join(DATASETS)}; got {source!r}{nearest(source, DATASETS)}"
            )
        source = DATASETS[source]
    folder = (cache_folder() if cache is None else Path(cache)) / source.name
    folder.mkdir(parents=True, exist_ok=True)
    for file in source.files.values():
        path = folder / file.name
        if path.exists():
            if _sha256(path) == file.sha256:
                continue
            log.warning(
                "fetch: %s is not what was downloaded (its SHA-256 differs); downloading it again", path
            )
        log.info("fetch: downloading %s (%s). Terms: %s", file.url, source.name, source.terms)
        _download(file, path, progress)
    return folder


def nearest(name: str, names: object) -> str:
    """ "; did you mean …?" for the closest of `names`, or nothing."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


def _download(file: RemoteFile, path: Path, progress: Callable[[str, int, int], None] | None) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{file.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as out:
            _receive(file, out, progress)
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide a shared cache from others
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _receive(file: RemoteFile, out, progress: Callable[[str, int, int], None] | None) -> None:
    digest, received = hashlib.sha256(), 0
    try:
        with urllib.request.urlopen(file.url, timeout=TIMEOUT) as response:
            while received <= file.size and (block := response.read(CHUNK)):
                out.write(block)
                digest.update(block)
                received += len(block)
                if progress is not None:
                    progress(file.name, received, file.size)
            announced = response.headers.get("Content-Length")
    except urllib.error.HTTPError as error:
        raise OSError(f"fetch: expected {file.url}; got HTTP {error.code} {error.reason}") from None
    except (http.client.HTTPException, urllib.error.URLError, ConnectionError, TimeoutError) as error:
        got = f"{type(error).__name__}: {getattr(error, 'reason', error)}"
        raise ConnectionError(f"fetch: expected {file.url}; got {got}") from error
    if received > file.size:
        raise ValueError(f"fetch: expected {file.size} bytes from {file.url}; got more")
    if announced is not None and announced.isdecimal() and received < int(announced):
        raise ConnectionError(
            f"fetch: expected {announced} bytes from {file.url}; got {received}: the connection broke"
        )
    if received != file.size:
        raise ValueError(f"fetch: expected {file.size} bytes from {file.url}; got {received}")
    if digest.hexdigest() != file.sha256:
        raise ValueError(f"fetch: expected SHA-256 {file.sha256} of {file.url}; got {digest.hexdigest()}")
