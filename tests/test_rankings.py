"""Rankings: extraction in three ways, the stored file, and files that are not what they should be."""

from __future__ import annotations

import json
import os
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rankdistill import Rankings
from rankdistill.data import CSR, Dataset, Vocabulary
from tests.case import generator, randn

U, N, K = 23, 57, 12


@pytest.fixture
def exclude():
    return CSR.from_any(torch.rand(U, N, generator=generator(1)) < 0.2)


@pytest.fixture
def tables():
    # Small integers: scores are exact, and many are equal.
    return randn(U, 3, seed=2, scale=2).round(), randn(N, 3, seed=3, scale=2).round()


def brute_force(scores, exclude, k):
    """Per row: the best k of what is rankable, equal scores by index."""
    excluded = exclude.to_dense()
    for row in range(len(scores)):
        ranked = sorted(
            (i for i in range(scores.shape[1]) if not excluded[row, i] and scores[row, i] > -np.inf),
            key=lambda i: (-scores[row, i].item(), i),
        )
        yield ranked[:k]


@pytest.mark.parametrize("k", [1, K, N + 5])
def test_three_ways_one_ranking(tables, exclude, k):
    users, items = tables
    scores = users @ items.T
    by_vectors = Rankings.from_vectors(users, items, k, exclude, batch_size=7)
    by_function = Rankings.from_score_function(lambda ids: scores[ids], U, N, k, exclude, batch_size=5)
    by_arrays = Rankings.from_score_function(lambda ids: scores.numpy()[ids], U, N, k, exclude)
    by_matrix = Rankings.from_scores(scores, k, exclude)
    doubles = Rankings.from_scores(scores.double(), k, exclude)
    for rankings in (by_vectors, by_function, by_arrays, by_matrix, doubles):
        assert repr(rankings) == f"Rankings({U} users, {k} of {N} items each)"
        for row, wanted in enumerate(brute_force(scores, exclude, k)):
            assert rankings.indices[row].tolist() == wanted + [-1] * (k - len(wanted))
            assert rankings.lengths[row] == len(wanted)
            assert rankings.scores[row, : len(wanted)].tolist() == scores[row, wanted].tolist()
            assert (rankings.scores[row, len(wanted) :] == -torch.inf).all()


def test_given_scores_may_be_anything():
    nan, inf = float("nan"), float("inf")
    scores = torch.tensor([[nan, 1.0, -inf, inf, -0.0, 0.0, -nan, 1.0]])
    for table in (scores, scores.double(), scores.half(), scores.bfloat16()):
        rankings = Rankings.from_scores(table, 8)
        assert rankings.indices.tolist() == [[3, 1, 7, 4, 5, -1, -1, -1]]
        assert rankings.lengths.tolist() == [5]
        assert rankings.scores[0, :3].tolist() == [inf, 1.0, 1.0]
    assert torch.equal(scores.isnan(), torch.tensor([[True, *[False] * 5, True, False]])), "not written"


def test_a_saved_file_comes_back(tmp_path, tables, exclude):
    users, items = tables
    people, things = (
        Vocabulary.from_ids(np.arange(U)),
        Vocabulary.from_ids(np.array([f"item {i}" for i in range(N)])),
    )
    metadata = {"user_vocabulary": people.sha256, "item_vocabulary": things.sha256, "teacher": "wide"}
    rankings = Rankings.from_vectors(users, items, K, exclude, metadata=metadata)
    rankings.save(tmp_path / "rankings.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["rankings.safetensors"]
    loaded = Rankings.load(tmp_path / "rankings.safetensors", user_vocabulary=people, item_vocabulary=things)
    for name in ("indices", "scores", "lengths"):
        assert torch.equal(getattr(loaded, name), getattr(rankings, name))
        assert getattr(loaded, name).dtype == getattr(rankings, name).dtype
    assert (loaded.n_items, loaded.metadata) == (N, metadata)
    other = Vocabulary.from_ids(np.array([f"thing {i}" for i in range(N)]))
    with pytest.raises(
        ValueError,
        match="expected the item ids with SHA-256 .* another catalogue. Extract them again from .*, or name theirs",
    ):
        Rankings.load(tmp_path / "rankings.safetensors", item_vocabulary=other)
    with pytest.raises(ValueError, match=f"expected rankings of {N + 1} items; got {N}"):
        Rankings.load(tmp_path / "rankings.safetensors", n_items=N + 1)


def test_loading_maps_the_file_instead_of_reading_it(tmp_path):
    rows = 400_000
    indices = torch.zeros((rows, 50), dtype=torch.int32)
    Rankings(indices, torch.zeros((rows, 50)), torch.full((rows,), 50, dtype=torch.int32), 10).save(
        tmp_path / "big"
    )

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    loaded = Rankings.load(tmp_path / "big")
    assert loaded.indices[-1].tolist() == [0] * 50
    assert resident() - before < 40e6 < (tmp_path / "big").stat().st_size / 3


def test_a_truncated_or_foreign_file_is_a_clear_error(tmp_path, tables, exclude):
    path = tmp_path / "rankings"
    Rankings.from_vectors(*tables, K, exclude).save(path)
    whole = path.read_bytes()
    for kept in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(
            ValueError, match="Rankings.load: expected a whole safetensors file; got .*rankings"
        ):
            Rankings.load(path)
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="expected a rankings file"):
        Rankings.load(path)
    with pytest.raises(FileNotFoundError):
        Rankings.load(tmp_path / "absent")


def with_header(path, change, inner: bool) -> None:
    """Writes the file with what `change` makes of its header, or of that of its rankings."""
    whole = path.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + length])
    if inner:
        kept = json.loads(header["__metadata__"]["rankdistill.rankings"])
        header["__metadata__"]["rankdistill.rankings"] = json.dumps(change(kept))
    else:
        header = change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + length :])


@pytest.mark.parametrize("damage", [-1, -7, N, 2**31 - 1])
def test_a_list_of_what_is_no_item_is_an_error_when_it_is_read(tmp_path, tables, damage):
    rankings = Rankings.from_vectors(*tables, K, CSR.from_any(torch.arange(N).expand(U, N) > 8))
    assert rankings.lengths.tolist() == [9] * U
    rankings.expect_lists()
    rankings.indices[17, 8] = damage
    rankings.save(tmp_path / "rankings")
    loaded = Rankings.load(tmp_path / "rankings")
    indices, lengths = loaded.lists(torch.tensor([3, 16, 3]))
    assert torch.equal(indices, rankings.indices[[3, 16, 3]])
    assert lengths.tolist() == [9] * 3
    for read in (
        loaded.expect_lists,
        lambda: loaded.lists(torch.tensor([3, 17])),
        lambda: loaded.lists(slice(9, 20)),
    ):
        with pytest.raises(
            ValueError,
            match=rf"Rankings: expected 9 items in \[0, {N}\) for user 17; got {damage} at place 8: a damaged",
        ):
            read()


def test_a_newer_format_is_refused(tmp_path, tables):
    path = tmp_path / "rankings"
    Rankings.from_vectors(*tables, K).save(path)
    with_header(path, lambda kept: kept | {"version": 2}, inner=True)
    with pytest.raises(ValueError, match="expected format version 1; got 2"):
        Rankings.load(path)


def tensor(name, **change):
    return lambda header: header | {name: header[name] | change}


@pytest.mark.parametrize(
    ("inner", "change"),
    [
        (True, lambda kept: [1]),
        (True, lambda kept: "text"),
        (True, lambda kept: {"version": 1}),
        (True, lambda kept: {k: v for k, v in kept.items() if k != "n_items"}),
        (True, lambda kept: kept | {"n_items": "500"}),
        (True, lambda kept: kept | {"n_items": 5.5}),
        (True, lambda kept: kept | {"n_items": -1}),
        (True, lambda kept: kept | {"metadata": [1]}),
        (True, lambda kept: kept | {"metadata": {"a": 1}}),
        (False, lambda header: [1]),
        (False, lambda header: header | {"__metadata__": [1]}),
        (False, lambda header: header | {"__metadata__": {"rankdistill.rankings": 1}}),
        (False, lambda header: header | {"__metadata__": {"rankdistill.rankings": "{"}}),
        (False, lambda header: header | {"indices": 3}),
        (False, tensor("indices", data_offsets=[0.0, U * K * 4.0])),
        (False, tensor("indices", data_offsets=[0, 1, 2])),
        (False, tensor("indices", data_offsets=[0])),
        (False, tensor("indices", data_offsets=7)),
        (False, tensor("indices", data_offsets=[-4, U * K * 4 - 4])),
        (False, tensor("indices", shape=[U + 0.0, K])),
        (False, tensor("indices", shape="8")),
        (False, tensor("indices", shape=[U * K])),
        (False, tensor("scores", shape=[K, U])),
        (False, tensor("indices", dtype=["I32"])),
    ],
)  # fmt: skip
def test_a_damaged_header_is_a_clear_error(tmp_path, tables, inner, change):
    path = tmp_path / "rankings"
    Rankings.from_vectors(*tables, K).save(path)
    with_header(path, change, inner)
    with pytest.raises(ValueError, match=r"Rankings.load: expected .*; got .*"):
        Rankings.load(path)
    with pytest.raises(ValueError, match=str(path)):
        Rankings.load(path)


def test_a_failed_save_leaves_the_old_file(tmp_path, tables, monkeypatch):
    path = tmp_path / "rankings"
    Rankings.from_vectors(*tables, K).save(path)
    before = path.read_bytes()

    def broken(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rankdistill.rankings.safetensors_files.os.pwrite", broken)
    with pytest.raises(OSError, match="No space left"):
        Rankings.from_vectors(*tables, K + 1).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["rankings"]


def test_bad_input(tables, exclude):
    users, items = tables
    with pytest.raises(ValueError, match=f"expected exclude of {U} users × {N} items; got {U} × 3"):
        Rankings.from_vectors(users, items, K, CSR.empty(U, 3))
    with pytest.raises(ValueError, match="expected k of 0 or more; got int -1"):
        Rankings.from_vectors(users, items, -1)
    with pytest.raises(ValueError, match=r"expected scores \[8, 57\]; got float32 \[8, 3\]"):
        Rankings.from_score_function(lambda ids: torch.zeros(8, 3), 8, N, K)
    with pytest.raises(ValueError, match=r"expected lengths in \[0, 2\]; got 3 for user 1"):
        Rankings(
            torch.zeros((2, 2), dtype=torch.int32),
            torch.zeros(2, 2),
            torch.tensor([0, 3], dtype=torch.int32),
            5,
        )
    with pytest.raises(TypeError, match="expected indices as a int32 tensor"):
        Rankings(torch.zeros(2, 2), torch.zeros(2, 2), torch.zeros(2, dtype=torch.int32), 5)


LISTS = {
    "nested": ([[2, 0], [], [1]], [[0.5, -1.0], [], [7]]),
    "arrays": ([np.array([2, 0]), np.array([]), torch.tensor([1])], [np.array([0.5, -1]), [], torch.tensor([7.0])]),
    "tensors": (torch.tensor([[2, 0], [-1, -1], [1, -1]]), torch.tensor([[0.5, -1], [0, 0], [7, 0]])),
    "narrow": (np.array([[2, 0], [-1, -1], [1, -1]], "i2"), np.array([[0.5, -1], [0, 0], [7, 0]], "f8")),
}  # fmt: skip


@pytest.mark.parametrize("form", LISTS)
def test_lists_at_hand(form):
    indices, scores = LISTS[form]
    rankings = Rankings.from_lists(indices, scores, n_items=3)
    assert rankings.indices.tolist() == [[2, 0], [-1, -1], [1, -1]]
    assert rankings.scores.tolist() == [[0.5, -1], [-torch.inf] * 2, [7, -torch.inf]]
    assert rankings.lengths.tolist() == [2, 0, 1]
    places = Rankings.from_lists(indices, n_items=3)
    assert places.scores.tolist() == [[0, -1], [-torch.inf] * 2, [0, -torch.inf]]


def test_lengths_of_a_matrix():
    given = torch.tensor([[2, 0], [1, 1]], dtype=torch.int64)
    rankings = Rankings.from_lists(given, lengths=[2, 1], n_items=3)
    assert rankings.indices.tolist() == [[2, 0], [1, -1]]
    assert given.tolist() == [[2, 0], [1, 1]], "the caller's stay as they are"
    assert Rankings.from_lists([], n_items=3).indices.shape == (0, 0)


@pytest.mark.parametrize(
    ("lists", "error", "message"),
    [
        (([[0, 3]],), ValueError, r"expected items in \[0, 3\); got 3 for user 0 at place 1"),
        (([[0], [1, 1]],), ValueError, "expected an item once in a list; got 1 for user 1 at place 1"),
        (([[0.5]],), TypeError, "expected indices as integers; got ndarray of float64"),
        (([0, 1],), ValueError, "expected indices as lists of lists"),
        ((torch.tensor([[0, -1, 1]]),), ValueError, "expected no item after a list's first -1; got 1 for user 0 at place 2"),
        (([[0, 1]], [[1.0]]), ValueError, r"expected scores \[1, 2\], as many in every list"),
        (([[0, 1], [0]], [[2, 1], [1, 0]]), ValueError, ".*as many in every list as indices"),
        (([[0, 1]], [[1.0, 2.0]]), ValueError, "expected scores that do not ascend, .*; got 2.0 for user 0 at place 1"),
        (([[0, 1]], [[1.0, np.nan]]), ValueError, "expected scores that are numbers; got nan for user 0 at place 1"),
        (([[0, 1]], None, [3]), ValueError, r"expected lengths in \[0, 2\]"),
        (([[0, 1]], None, [1, 1]), ValueError, "expected 1 lengths, as indices"),
    ],
)  # fmt: skip
def test_lists_that_are_none(lists, error, message):
    with pytest.raises(error, match=f"Rankings.from_lists: {message}"):
        Rankings.from_lists(*lists, n_items=3)


def dataset_of(users, items):
    """Every user has every item, whatever they are called."""
    return Dataset.from_arrays((np.repeat(users, len(items)), np.tile(items, len(users))))


IDS = {
    "strings": (["ann", "bob", "dan"], ["fig", "kiwi", "plum"], ["bob", "cat", "dan", "ann"], ["fig", "lime", "plum"]),
    "integers": ([3, 5, 9], [10, 20, 30], [5, 7, 9, 3], [10, 25, 30]),
    "mixed": ([3, 5, 9], [10, 20, 30], ["5", "x", "9", "3"], ["10", "y", "30"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", IDS)
def test_lists_are_aligned_by_ids_when_users_and_items_come_and_go(tmp_path, kind, caplog):
    users, items, later_users, later_items = IDS[kind]
    rankings = Rankings.from_lists([[1, 0, 2], [0, 1], [2]], [[3, 2, 1], [9, 8], [5]], n_items=3)
    rankings = rankings.with_ids(users, items)
    rankings.save(tmp_path / "lists.safetensors")
    later = dataset_of(later_users, later_items)
    given = {"user_vocabulary": later.users, "item_vocabulary": later.items}
    for found in (rankings.aligned(later), Rankings.load(tmp_path / "lists.safetensors", **given)):
        by_id = {}
        for user, listed, scores, n in zip(later.users.ids, found.indices, found.scores, found.lengths):
            by_id[str(user)] = [
                (str(later.items.ids[i]), s.item()) for i, s in zip(listed[:n], scores[:n], strict=True)
            ]
            assert (listed[n:] == -1).all()
            assert (scores[n:] == -torch.inf).all()
        old_users, old_items = map(str, users), list(map(str, items))
        first, second, third = old_users
        assert by_id.pop(first) == [(old_items[0], 2), (old_items[2], 1)], "kiwi is no more; the order stays"
        assert by_id.pop(second) == [(old_items[0], 9)]
        assert by_id.pop(third) == [(old_items[2], 5)]
        assert list(by_id.values()) == [[]], "whoever has come since"
        assert found.metadata["user_vocabulary"] == later.users.sha256
        assert found.user_ids.tolist() == later.users.ids.tolist()
    assert "1 of 4 users have no list there, and 2 of 6 items" in caplog.text


def test_ids_are_kept_in_a_file_and_read_by_others(tmp_path):
    rankings = Rankings.from_lists([[1, 0], [0]], n_items=2).with_ids(["b", "a"], [7, 5])
    rankings.save(tmp_path / "lists.safetensors")
    loaded = Rankings.load(tmp_path / "lists.safetensors")
    assert loaded.user_ids.tolist() == ["b", "a"]
    assert loaded.item_ids.tolist() == [7, 5]
    assert torch.equal(loaded.indices, rankings.indices)
    assert load_file(tmp_path / "lists.safetensors")["item_ids"].tolist() == [7, 5]
    assert Rankings.from_lists([[0]], n_items=1).user_ids is None


def test_what_cannot_be_aligned(tmp_path):
    users, items = ["ann", "bob", "dan"], ["fig", "kiwi", "plum"]
    rankings = Rankings.from_lists([[0], [1], [2]], n_items=3)
    with pytest.raises(ValueError, match="expected rankings with user_ids; got none"):
        rankings.aligned(dataset_of(users, items))
    named = rankings.with_ids(users, items)
    with pytest.raises(
        ValueError, match="expected rankings of these 2 users; got those of 3, 0 of them among these"
    ):
        named.aligned(dataset_of(["x", "y"], items))
    named.save(tmp_path / "lists.safetensors")
    other = dataset_of(["ann", "x", "y"], items)
    assert named.aligned(other).lengths.tolist() == [1, 0, 0]
    with pytest.raises(ValueError, match="1 of them among these, another catalogue. Extract them again"):
        Rankings.load(
            tmp_path / "lists.safetensors", user_vocabulary=other.users, item_vocabulary=other.items
        )
    with pytest.raises(ValueError, match="Rankings: expected 3 user_ids; got 2"):
        rankings.with_ids(["ann", "bob"], items)
    with pytest.raises(ValueError, match="expected item_ids without repeats; got 2 of 3"):
        rankings.with_ids(users, ["fig", "fig", "plum"])


def test_numbers_of_rows_are_no_ids_to_align_by_unasked(tmp_path):
    """A teacher of as many other users would be taken for this one."""
    rankings = Rankings.from_lists([[0], [1], [0]], n_items=2).with_ids(range(3), ["fig", "kiwi"])
    rankings.save(tmp_path / "lists.safetensors")
    later = dataset_of([0, 1, 2, 3], ["fig", "kiwi"])
    with pytest.raises(ValueError, match="Rankings.load: expected rankings of 4 users; got 3"):
        Rankings.load(
            tmp_path / "lists.safetensors", user_vocabulary=later.users, item_vocabulary=later.items
        )
    assert rankings.aligned(later).lengths.tolist() == [1, 1, 1, 0]


def test_ids_of_a_damaged_file(tmp_path):
    tensors = {
        "indices": torch.zeros(2, 1).int(),
        "scores": torch.zeros(2, 1),
        "lengths": torch.ones(2).int(),
    }
    header = {"rankdistill.rankings": json.dumps({"version": 1, "n_items": 3, "metadata": {}})}
    save_file(tensors | {"user_ids": torch.arange(3), "item_ids": torch.arange(3)}, tmp_path / "a", header)
    with pytest.raises(ValueError, match="Rankings: expected 2 user_ids; got 3, a damaged file"):
        _ = Rankings.load(tmp_path / "a").user_ids
    save_file(tensors | {"user_ids": torch.arange(2).int()}, tmp_path / "b", header)
    with pytest.raises(ValueError, match="Rankings.load: expected user_ids as int64; got torch.int32"):
        Rankings.load(tmp_path / "b")
    save_file(
        tensors | {"user_ids_lines": torch.tensor([255, 34], dtype=torch.uint8)}, tmp_path / "c", header
    )
    with pytest.raises(
        ValueError, match="expected user_ids_lines as JSON strings, one a line; got damaged ones"
    ):
        _ = Rankings.load(tmp_path / "c").user_ids
