"""Real files, found through RANKDISTILL_DATA: counts as published, and one set equal in all its formats."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from rankdistill.data import DATASETS, Dataset, load, read_interactions

FILES = {
    "ml-100k/interactions.csv.gz": (943, 1_682, 100_000),
    "raw/movielens-udata/u.data": (943, 1_682, 100_000),
    "raw/recbole-inter/ml-100k.inter": (943, 1_682, 100_000),
    "raw/citeulike-usersdat/users.dat": (7_947, 25_584, 134_860),
    "citeulike/interactions.csv.gz": (5_219, 25_181, 125_580),
    "raw/ncf-rating/lastfm.train.rating": (1_741, None, 67_408),
}
FOLDERS = {
    "citeulike/loo": (5_219, 25_181, 115_142, 5_219, 5_219),
    "citeulike/loo_full_ranking": (5_219, 25_181, 115_142, 5_219, 5_219),
    "citeulike/split80_20": (5_219, 25_181, 100_602, 0, 24_978),
    "gowalla": (29_858, 40_981, 810_128, 0, 217_242),
    "raw/lightgcn-txt/gowalla": (29_858, 40_981, 810_128, 0, 217_242),
    "raw/lightgcn-txt/ml-1m": (6_039, 3_628, 590_733, 80_897, 164_848),
    "ml-1m": (6_039, 3_628, 590_733, 80_897, 164_848),
    "raw/ncf-rating": (1_741, None, 67_408, 0, 1_741),
}
PINNED = {
    ("ml-100k", "all"): "raw/movielens-udata/u.data",
    ("ml-1m", "train"): "raw/lightgcn-txt/ml-1m/train.txt",
    ("ml-1m", "valid"): "raw/lightgcn-txt/ml-1m/valid.txt",
    ("ml-1m", "test"): "raw/lightgcn-txt/ml-1m/test.txt",
    ("citeulike-t", "all"): "raw/citeulike-usersdat/users.dat",
    ("lastfm", "train"): "raw/ncf-rating/lastfm.train.rating",
    ("lastfm", "test"): "raw/ncf-rating/lastfm.test.rating",
}


@pytest.mark.parametrize("name", FILES)
def test_files(real_data, name):
    table = read_interactions(real_data / name)
    users, items, rows = FILES[name]
    assert len(table) == rows
    assert len(np.unique(table.users)) == users
    if items is not None:
        assert len(np.unique(table.items)) == items
    assert table.users.dtype == table.items.dtype == np.int64


@pytest.mark.parametrize("name", FOLDERS)
def test_folders(real_data, name):
    data = load(real_data / name)
    users, items, *parts = FOLDERS[name]
    assert data.n_users == users
    if items is not None:
        assert data.n_items == items
    assert [len(data.train), len(data.valid), len(data.test)] == parts


def test_one_set_in_three_formats(real_data):
    tables = [read_interactions(real_data / name) for name in list(FILES)[:3]]
    rows = [np.stack([t.users, t.items, t.ratings.astype(int), t.timestamps], 1) for t in tables]
    rows[0][:, :2] += 1  # the csv counts from 0
    first, *others = [np.unique(table, axis=0) for table in rows]
    assert all(np.array_equal(first, other) for other in others)


def test_two_formats_of_one_split(real_data):
    text, table = load(real_data / "raw/lightgcn-txt/gowalla"), load(real_data / "gowalla")
    assert text.users.sha256 == table.users.sha256
    for part in ("train", "test"):
        assert getattr(text, part).csr().indices.equal(getattr(table, part).csr().indices)
        assert getattr(text, part).csr().indptr.equal(getattr(table, part).csr().indptr)


def test_cold_test_items_and_min_rating(real_data):
    split = real_data / "ml-100k/split80_20"
    data = load(split)
    assert len(set(data.test.items.tolist()) - set(data.train.items.tolist())) <= 30
    assert int((~data.train.csr().to_dense().any(0))[data.test.items].sum()) == 30
    liked = Dataset.from_files(split / "train.csv.gz", test=split / "test.csv.gz", min_rating=4)
    assert (len(liked.train), len(liked.test)) == (44_349, 11_026)
    assert int((liked.test.csr().counts > 0).sum()) == 932


@pytest.mark.parametrize(
    "split", ["random", "leave_one_out", "leave_last_out", "temporal", "temporal_global"]
)
def test_splits_of_movielens(real_data, split):
    data = load(real_data / "raw/movielens-udata/u.data", split=split)
    assert len(data.train) + len(data.valid) + len(data.test) == 100_000
    if split.startswith("leave"):
        assert (len(data.valid), len(data.test)) == (943, 943)
    elif split == "temporal_global":
        assert data.train.timestamps.max() < data.valid.timestamps.min()
        assert data.valid.timestamps.max() < data.test.timestamps.min()
    else:
        assert abs(len(data.test) - 10_000) < 100


@pytest.mark.parametrize(("name", "part"), PINNED)
def test_pinned_hashes_are_those_of_the_real_files(real_data, name, part):
    data = (real_data / PINNED[name, part]).read_bytes()
    pinned = DATASETS[name].files[part]
    assert (len(data), hashlib.sha256(data).hexdigest()) == (pinned.size, pinned.sha256)
