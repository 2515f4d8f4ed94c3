"""Rankings from tables of lists: user, item and score a row, as any recommender can write them."""

from __future__ import annotations

import logging
import os

import numpy as np
import torch

from rankdistill.data.csr import CSR
from rankdistill.data.dataset import Dataset
from rankdistill.data.frames import frame_name, is_frame
from rankdistill.data.interactions import RawInteractions
from rankdistill.data.readers import guess_format, read_interactions
from rankdistill.rankings.json_lists import SUFFIXES, read_json_lists
from rankdistill.rankings.rankings import Rankings
from rankdistill.rankings.shards import INDEX

logger = logging.getLogger("rankdistill")

OP = "rankings_from_table"
FORMATS = ("csv", "tsv", "inter", "parquet")


def is_table(path: str | os.PathLike) -> bool:
    """Whether a file's name is that of a table of lists; `rankings.json` is that of an extraction's index."""
    if os.path.basename(path) == INDEX:
        return False
    return guess_format(path) in FORMATS or os.fspath(path).removesuffix(".gz").endswith(SUFFIXES)


def rankings_from_table(
    path: str | os.PathLike | object,
    dataset: Dataset,
    *,
    score_column: str = "score",
    leave_out_train: bool = True,
) -> Rankings:
    """A teacher's lists from a file or data frame with a row for every user and item listed, or from JSON.

    Args:
        path: a csv, tsv or parquet file with a header, or a table in memory that `read_interactions` takes; users and items
            in the columns of the usual names, as external ids. Or a .jsonl file, {"user": id, "items": [ids], "scores":
            [numbers]} a line, perhaps without scores; or a .json file, {user: [items, the best first]} or {user: {item:
            score}}. Text may be gzip'd (.gz).
        dataset: whose users and items they are.
        score_column: of the scores, which order each list: the rows may come in any order. Ties go to the item that the
            data set has first.
        leave_out_train: drop a user's train items from the list.

    Returns:
        Rankings of all users of the data set, as long as the longest list; one without rows has an empty list, and both
        what is dropped and how many have none is logged.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a malformed file, ids that the data set has not, an item that a list has twice, no list at all.

    Cost:
        O(n log n) time and O(n) memory for n rows.

    Example:
        >>> import tempfile
        >>> from rankdistill import data
        >>> dataset = data.Dataset.from_arrays((["ann", "bob"], ["fig", "plum"]))
        >>> path = tempfile.mkdtemp() + "/lists.csv"
        >>> _ = open(path, "w").write("user,item,score\\nbob,fig,0.5\\nann,plum,2\\n")
        >>> rankings_from_table(path, dataset).indices.tolist()
        [[1], [0]]
    """
    name = frame_name(path) if is_frame(path) else os.fspath(path)
    raw = _read(path, name, score_column)
    try:
        users, items = dataset.users.encode(raw.user_ids), dataset.items.encode(raw.item_ids)
    except KeyError as error:
        raise ValueError(
            f"{OP}: expected users and items of {dataset.name}; got others in {name}: {error.args[0]}"
        ) from None
    U, N = dataset.n_users, dataset.n_items
    keys, counts = torch.unique(users * N + items, return_counts=True)
    if len(keys) < len(users):
        key = int(keys[counts.argmax()])
        user, item = dataset.users.decode([key // N])[0], dataset.items.decode([key % N])[0]
        raise ValueError(f"{OP}: expected an item once in a list; got {item} twice for user {user} in {name}")
    scores = torch.from_numpy(raw.ratings).double()
    if leave_out_train:
        kept = ~dataset.train.csr().contains(users, items)
        if not bool(kept.all()):
            logger.info("%s: left out %d train items of %d rows", name, int((~kept).sum()), len(kept))
        users, items, scores = users[kept], items[kept], scores[kept]
    if not len(users):
        found = f"{len(raw)} train items, which are left out" if len(raw) else "no row"
        raise ValueError(f"{OP}: expected a list or more; got {found} in {name}")
    order = torch.from_numpy(np.lexsort((items.numpy(), -scores.numpy(), users.numpy())))
    lists = CSR.from_pairs(users, items, U, N)
    k = int(lists.counts.max()) if U else 0
    listed = torch.arange(k) < lists.counts[:, None]  # row by row, as the sorted rows are
    indices, best = torch.full((U, k), -1, dtype=torch.int32), torch.full((U, k), -torch.inf)
    indices[listed], best[listed] = items[order].int(), scores[order].float()
    empty = int((lists.counts == 0).sum())
    if empty:
        logger.info("%s: no list for %d of %d users", name, empty, U)
    metadata = {
        "user_vocabulary": dataset.users.sha256,
        "item_vocabulary": dataset.items.sha256,
        "data": dataset.name,
    }
    made = Rankings(indices, best, lists.counts.int(), N, metadata)
    return made.with_ids(dataset.users.ids, dataset.items.ids)


def _read(path: str | os.PathLike | object, name: str, score_column: str) -> RawInteractions:
    if not is_frame(path) and not os.path.isfile(path):
        raise FileNotFoundError(f"{OP}: expected a table of lists; got {name}, which is no file")
    if not is_frame(path) and name.removesuffix(".gz").endswith(SUFFIXES):
        return read_json_lists(path)
    try:
        raw = read_interactions(path, rating_column=score_column, timestamp_column=False)
    except ValueError as error:  # what a reader calls a rating is a score here
        place, colon, text = str(error).partition(": expected ")
        expected, got, found = text.partition("; got ")
        raise ValueError(f"{place}{colon}{expected.replace('rating', score_column)}{got}{found}") from error
    if raw.ratings is None:
        raise ValueError(f"{OP}: expected a column {score_column}; got none in {name}")
    return raw
