"""Ids of any spelling, mapped there and back, independent of their order."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rankdistill.data import Vocabulary
from rankdistill.data.ids import as_ids

integers = st.integers(-(2**63), 2**63 - 1)
strings = st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=6)
ids = st.lists(
    st.one_of(integers, strings, st.integers(-5, 5), st.integers(0, 20).map(str)), min_size=1, max_size=30
)


@given(ids)
def test_there_and_back(values):
    vocabulary = Vocabulary.from_ids(values)
    assert [str(value) for value in vocabulary.decode(vocabulary.encode(values))] == [
        str(value) for value in values
    ]
    assert len(vocabulary) == len({str(value) for value in values})
    assert torch.equal(vocabulary.encode(vocabulary.ids), torch.arange(len(vocabulary)))


@given(ids, st.randoms(use_true_random=False))
def test_order_and_container_do_not_matter(values, shuffler):
    shuffled = [str(value) for value in values]
    shuffler.shuffle(shuffled)
    half = len(values) // 2
    assert Vocabulary.from_ids(values) == Vocabulary.from_ids(shuffled[:half], shuffled[half:])
    assert Vocabulary.from_ids(values).sha256 == Vocabulary.from_ids(shuffled).sha256


@given(ids)
def test_saved_and_loaded(values):
    import tempfile
    from pathlib import Path

    vocabulary = Vocabulary.from_ids(values)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "users.jsonl"
        vocabulary.save(path)
        assert Vocabulary.load(path) == vocabulary
        assert hashlib.sha256(path.read_bytes()).hexdigest() == vocabulary.sha256


def test_the_order():
    assert Vocabulary.from_ids([10, 9, -1]).ids.tolist() == [-1, 9, 10]
    assert Vocabulary.from_ids(["10", "9", "a"]).ids.tolist() == ["10", "9", "a"]
    shuffled = random.Random(0).sample(range(100), 100)
    assert torch.equal(Vocabulary.from_ids(shuffled).encode(shuffled), torch.tensor(shuffled))


def test_an_id_is_its_spelling():
    assert as_ids(["1", "2"]).dtype == np.int64
    assert as_ids([1, "2"]).tolist() == [1, 2]
    for strange in ("01", "+1", "1_0", " 1", "-0", "٣", "9223372036854775808", "1.0"):
        assert as_ids([strange, "1"]).tolist() == [strange, "1"]
    assert Vocabulary.from_ids([1, 2], ["a"]).encode([2]).tolist() == [1]
    assert Vocabulary.from_ids(np.array([3, 10, 9])).encode(["10", "9"]).tolist() == [2, 1]


def test_digest_tells_ids_apart():
    digests = [
        Vocabulary.from_ids(values).sha256
        for values in ([1, 23], [12, 3], ["1", "2", "3x"], ['1"', "23x"], [])
    ]
    assert len(set(digests)) == 5


@pytest.mark.parametrize(
    ("known", "asked", "named"),
    [
        ([1, 3], [1, 2], "2 at position 1"),
        (["a", "c"], ["b"], "'b' at position 0"),
        ([9, 10], ["10", "9", "x"], "'x' at position 2"),
        ([], [5], "5"),
    ],
)
def test_unknown_ids_are_named(known, asked, named):
    with pytest.raises(KeyError, match=named):
        Vocabulary.from_ids(known).encode(asked)


@pytest.mark.parametrize("index", [-1, 2])
def test_indices_out_of_range(index):
    with pytest.raises(IndexError, match=rf"expected indices in \[0, 2\); got {index}"):
        Vocabulary.from_ids(["a", "b"]).decode(torch.tensor([0, index]))


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([1.0], TypeError, "got 1.0 at position 0"),
        ([1, None], TypeError, "got None at position 1"),
        ([True], TypeError, "got True"),
        (np.array([1.5]), TypeError, "float64"),
        (["a", ""], ValueError, "not empty; got '' at position 1"),
        (["a\0"], ValueError, "NUL"),
        (np.array([2**63], dtype=np.uint64), ValueError, "within int64"),
        (np.ones((2, 2), int), ValueError, "1 dimension"),
    ],
)
def test_what_is_not_an_id(values, error, message):
    with pytest.raises(error, match=message):
        Vocabulary.from_ids(values)


def test_a_broken_file_is_named_with_its_line(tmp_path):
    path = tmp_path / "items.jsonl"
    path.write_text("1\n2.5\n")
    with pytest.raises(ValueError, match=r"items.jsonl:2: expected a JSON integer or string; got b'2.5'"):
        Vocabulary.load(path)
    path.write_text("2\n1\n")
    with pytest.raises(ValueError, match=r"items.jsonl: .*got 2 before 1"):
        Vocabulary.load(path)
