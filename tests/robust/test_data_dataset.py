"""Data sets from files, arrays and matrices; what is masked, dropped or refused; the generator; `load`."""

from __future__ import annotations

import doctest
import importlib
import logging
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse
import torch

from rankdistill.data import CSR, Dataset, Interactions, RawInteractions, Vocabulary, generate, load

TRAIN, VALID, TEST = ([5, 5, 9], ["a", "b", "b"]), ([9], ["a"]), ([5, 9], ["c", "c"])


def pairs(data: Dataset, part: str) -> set[tuple]:
    part = getattr(data, part)
    users, items = data.users.decode(part.users).tolist(), data.items.decode(part.items).tolist()
    return set(zip(users, items))


def check_small(data: Dataset) -> None:
    assert (data.users.ids.tolist(), data.items.ids.tolist()) == ([5, 9], ["a", "b", "c"])
    for part, (users, items) in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        assert pairs(data, part) == set(zip(users, items))
        assert getattr(data, part).csr().n_columns == 3  # item c occurs in test alone


def test_from_arrays_and_files(tmp_path):
    check_small(Dataset.from_arrays(TRAIN, VALID, TEST))
    for name, (users, items) in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        (tmp_path / f"{name}.csv").write_text(
            "user,item\n" + "".join(f"{u},{i}\n" for u, i in zip(users, items))
        )
    check_small(Dataset.from_files(*(tmp_path / f"{name}.csv" for name in ("train", "valid", "test"))))
    check_small(load(tmp_path))


def test_from_csr_keeps_numbers_and_empty_rows():
    train = scipy.sparse.csr_matrix(np.array([[1, 0, 1], [0, 0, 0]]))
    data = Dataset.from_csr(train, test=torch.tensor([[False, True, False], [False, False, False]]))
    assert (data.n_users, data.n_items, data.users.ids.tolist()) == (2, 3, [0, 1])
    assert pairs(data, "train") == {(0, 0), (0, 2)}
    assert pairs(data, "test") == {(0, 1)}
    assert len(data.valid) == 0
    with pytest.raises(ValueError, match="expected test of 2 × 3, as train"):
        Dataset.from_csr(train, test=CSR.empty(2, 4))


def test_what_a_ranking_leaves_out():
    data = Dataset.from_arrays(TRAIN, VALID, TEST)
    assert data.held_out_exclude("test").to_dense().tolist() == [[True, True, False], [True, True, False]]
    assert data.held_out_exclude("valid").to_dense().tolist() == [[True, True, True], [False, True, True]]
    with pytest.raises(ValueError, match="expected part as 'valid' or 'test'; got 'train'"):
        data.held_out_exclude("train")
    assert data.held_out_exclude("valid") is data.held_out_exclude("valid"), "sorted for every evaluation"
    assert data.held_out_exclude("test") is data.held_out_exclude("test")
    whole = Dataset.from_arrays(TRAIN, VALID)
    assert whole.held_out_exclude("valid") is whole.train.csr(), "nothing besides is left out"


def test_pairs_of_an_earlier_part_are_dropped_and_counted(caplog):
    with caplog.at_level(logging.WARNING, "rankdistill"):
        data = Dataset.from_arrays(
            ([1, 1], [1, 2]), ([1, 1], [2, 3]), ([1, 1, 1, 1], [1, 3, 4, 4]), name="mine"
        )
    assert (pairs(data, "train"), pairs(data, "valid"), pairs(data, "test")) == (
        {(1, 1), (1, 2)},
        {(1, 3)},
        {(1, 4)},
    )
    assert [record.getMessage() for record in caplog.records] == [
        "Dataset mine: dropped 1 of 2 valid pairs: in an earlier part too",
        "Dataset mine: dropped 2 of 3 test pairs: in an earlier part too",
    ]


def test_parts_that_share_a_pair_or_differ_in_size_are_refused():
    vocabulary = Vocabulary.from_ids([0, 1])
    one = Interactions(torch.tensor([0]), torch.tensor([1]), 2, 2)
    none = one.select(torch.tensor([False]))
    with pytest.raises(ValueError, match="expected test without pairs of train; got 1"):
        Dataset(one, none, one, vocabulary, vocabulary)
    with pytest.raises(ValueError, match=r"expected valid of 2 users and 2 items; got \(2, 3\)"):
        Dataset(one, Interactions(one.users, one.items, 2, 3), none, vocabulary, vocabulary)
    with pytest.raises(ValueError, match="expected a train part with interactions; got an empty one"):
        Dataset(none, one, none, vocabulary, vocabulary)
    with pytest.raises(ValueError, match="got an empty one"):
        Dataset.from_interactions(([], []))


def test_ids_that_are_integers_in_one_part_only(tmp_path):
    data = Dataset.from_arrays(([1, 2], [1, 2]), None, (["1", "x"], ["2", "1"]))
    assert data.users.ids.tolist() == ["1", "2", "x"]
    assert pairs(data, "test") == {("1", 2), ("x", 1)}


def test_ratings_and_timestamps_reach_the_parts():
    raw = RawInteractions([1, 1, 1, 2], [1, 2, 3, 1], ratings=[1, 2, 3, 4], timestamps=[30, 10, 20, 5])
    data = Dataset.from_interactions(raw, split="leave_last_out")
    assert (pairs(data, "test"), pairs(data, "valid")) == ({(1, 1)}, {(1, 3)})
    assert data.test.timestamps.tolist() == [30]
    assert data.train.ratings.tolist() == [2.0, 4.0]


def test_bad_tables():
    with pytest.raises(ValueError, match="expected 2 items, as users; got 1"):
        RawInteractions([1, 2], [1])
    with pytest.raises(ValueError, match="expected finite ratings; got nan at position 1"):
        RawInteractions([1, 2], [1, 2], ratings=[1.0, float("nan")])
    with pytest.raises(TypeError, match="expected timestamps as numbers"):
        RawInteractions([1], [1], timestamps=["monday"])
    with pytest.raises(ValueError, match=r"expected items in \[0, 2\); got 2 at position 1"):
        Interactions(torch.tensor([0, 0]), torch.tensor([0, 2]), 1, 2)
    with pytest.raises(TypeError, match=r"expected users as a tensor of int64; got torch\.int32"):
        Interactions(torch.tensor([0]).int(), torch.tensor([0]), 1, 1)
    with pytest.raises(
        TypeError, match=r"expected RawInteractions, a pair \(users, items\) or a data frame; got int"
    ):
        Dataset.from_arrays(3)


class TestLoad:
    def test_one_file_is_split(self, tmp_path):
        (tmp_path / "u.data").write_text(
            "".join(f"{u}\t{i}\t{i % 5 + 1}\t{i}\n" for u in (1, 2) for i in range(9))
        )
        data = load(tmp_path / "u.data", split="leave_last_out", min_rating=2)
        assert pairs(data, "test") == {(1, 8), (2, 8)}
        assert len(data.train) == 2 * 5

    def test_folders(self, tmp_path):
        with pytest.raises(ValueError, match=r"expected a train file in .*; got nothing"):
            load(tmp_path)
        (tmp_path / "x.train.rating").write_text("0\t1\t1\n")
        (tmp_path / "x.test.rating").write_text("0\t2\t1\n")
        (tmp_path / "x.test.negative").write_text("(0,2)\t5\n")
        assert pairs(load(tmp_path), "test") == {(0, 2)}
        (tmp_path / "train.txt").write_text("0 1\n")
        with pytest.raises(
            ValueError, match=r"expected one train file in .*; got train.txt and x.train.rating"
        ):
            load(tmp_path)

    def test_unknown_names_name_the_nearest(self):
        with pytest.raises(
            ValueError, match=r"expected one of generated, .*; got 'ml100k'; did you mean 'ml-100k'"
        ):
            load("ml100k")

    @pytest.mark.parametrize(
        ("source", "options", "error", "message"),
        [
            ("x.csv", {"sep": ";"}, ValueError, "load: expected options of format, .*; got 'sep'; did you mean 'separator'"),
            ("generated", {"n_user": 3}, ValueError, "load: expected options of n_users, .*; got 'n_user'; did you mean 'n_users'"),
            ([[1], [2]], {}, TypeError, "expected a name, a file, a folder, or a data frame of users and items; got a list"),
            ({"user": [1], "item": [2]}, {"sep": ";"}, ValueError, "load: expected options of format, .*; got 'sep'"),
        ],
    )  # fmt: skip
    def test_what_it_cannot_take_is_told(self, source, options, error, message):
        with pytest.raises(error, match=message):
            load(source, **options)

    def test_the_generated_data_set_may_have_a_name(self):
        assert load("generated", n_users=30, n_items=20, mean_interactions=6, name="mine").name == "mine"


class TestGenerator:
    def test_the_seed_decides(self):
        torch.manual_seed(0)
        state = torch.get_rng_state()
        first, again, other = (generate(300, 200, seed=seed) for seed in (1, 1, 2))
        assert torch.equal(torch.get_rng_state(), state)
        for part in ("train", "valid", "test"):
            assert pairs(first, part) == pairs(again, part)
            assert pairs(first, part) != pairs(other, part)

    def test_counts(self):
        data = generate(400, 150, mean_interactions=30, min_interactions=12, seed=3)
        counts = data.train.csr().counts + data.valid.csr().counts + data.test.csr().counts
        assert counts.min() >= 12
        assert counts.max() <= 75
        assert 27 < counts.double().mean() < 33

    def test_popularity_has_a_long_tail_that_ids_do_not_tell(self):
        def popularity(exponent):
            data = generate(1_000, 1_000, popularity_exponent=exponent, group_strength=0, personal_strength=0)
            return torch.bincount(data.train.items, minlength=1_000).double()

        long, flat = popularity(1.0), popularity(0.0)
        assert long.sort(descending=True).values[:100].sum() > 0.4 * long.sum()
        assert flat.sort(descending=True).values[:100].sum() < 0.2 * flat.sum()
        assert abs(torch.corrcoef(torch.stack([long, torch.arange(1_000).double()]))[0, 1]) < 0.15

    def test_the_planted_structure_needs_width(self):
        """Recall@20 of a truncated SVD: popularity < 8 dimensions < 64, and nothing to gain where nothing is planted."""

        def recall(scores, data):
            scores = scores.masked_fill(data.held_out_exclude("test").to_dense(), -torch.inf)
            hits = data.test.csr().to_dense().gather(1, scores.topk(20).indices).sum(1)
            return float((hits / data.test.csr().counts.clamp(min=1)).mean())

        def recalls(data):
            train = data.train.csr().to_dense().float()
            degree = train.sum(0).clamp(min=1).sqrt()
            _, _, v = torch.linalg.svd(train / degree, full_matrices=False)
            found = [recall(train.sum(0).expand_as(train), data)]
            for width in (8, 64):
                found.append(recall((train / degree) @ v[:width].T @ v[:width] * degree, data))
            return found

        popular, narrow, wide = recalls(generate(1_000, 1_200))
        assert wide > 1.4 * narrow > 1.4 * 1.4 * popular
        popular, narrow, wide = recalls(generate(1_000, 1_200, group_strength=0, personal_strength=0))
        assert max(narrow, wide) < 1.1 * popular

    @pytest.mark.parametrize(
        "wrong",
        [
            {"n_users": 0},
            {"width": 0},
            {"groups_per_user": 99},
            {"min_interactions": 5_000},
            {"group_strength": -1},
        ],
    )
    def test_wrong_arguments(self, wrong):
        with pytest.raises(ValueError, match=r"^generate: expected"):
            generate(**wrong)


def test_the_table_of_downloads_needs_no_torch():
    code = (
        "import sys; from rankdistill.data import DATASETS; assert DATASETS; sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "module", ["csr", "dataset", "generator", "ids", "interactions", "loading", "vocabulary"]
)
def test_examples(module):
    module = importlib.import_module(f"rankdistill.data.{module}")
    found = doctest.testmod(module, extraglobs={"torch": torch})
    assert found.attempted > 0
    assert found.failed == 0
