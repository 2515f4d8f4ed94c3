"""Rankings from tables of lists that any recommender can write."""

from __future__ import annotations

import gzip
import logging

import pytest
import torch

from rankdistill import as_teacher, load_factors, rankings_from_table
from rankdistill.cli import main
from rankdistill.data import Dataset, generate
from rankdistill.rankings.listed import is_table
from tests.case import randn

DATASET = Dataset.from_arrays(
    (["ann", "bob", "cat", "cat"], ["fig", "pear", "fig", "plum"]), test=(["ann", "dan"], ["plum", "kiwi"])
)  # ann bob cat dan; fig kiwi pear plum


def written(path, *rows, header="user,position,item,score"):
    path.write_text("\n".join((header, *rows)) + "\n")
    return path


def test_a_table_that_a_human_can_check(tmp_path, caplog):
    path = written(tmp_path / "lists.csv", "bob,1,kiwi,0.5", "ann,2,pear,2", "ann,1,kiwi,3", "bob,1,plum,0.5", "ann,9,fig,9",
                   "cat,1,pear,-1e3")  # fmt: skip
    with caplog.at_level(logging.INFO, "rankdistill"):
        rankings = rankings_from_table(path, DATASET)
    assert rankings.indices.tolist() == [[1, 2], [1, 3], [2, -1], [-1, -1]], (
        "fig is a train item of ann; bob's tie"
    )
    assert rankings.scores.tolist() == [[3, 2], [0.5, 0.5], [-1000, -torch.inf], [-torch.inf, -torch.inf]]
    assert rankings.lengths.tolist() == [2, 2, 1, 0]
    assert "left out 1 train items of 6 rows" in caplog.text
    assert "no list for 1 of 4 users" in caplog.text
    kept = rankings_from_table(path, DATASET, leave_out_train=False)
    assert kept.indices[0].tolist() == [0, 1, 2]
    assert kept.metadata["item_vocabulary"] == DATASET.items.sha256


def test_scores_that_are_equal_in_float32_keep_their_order(tmp_path):
    path = written(
        tmp_path / "lists.csv", "dan,1,plum,0.99999999", "dan,2,kiwi,0.99999998", "dan,3,pear,0.99999997"
    )
    assert rankings_from_table(path, DATASET).indices[3].tolist() == [3, 1, 2]


def test_lists_in_any_order_are_the_teachers(tmp_path):
    dataset = generate(60, 80, mean_interactions=12, min_interactions=6, n_groups=5)
    teacher = as_teacher((randn(60, 8, seed=1), randn(80, 8, seed=2)), dataset)
    expected = teacher.rankings(20, dataset.train.csr())
    rows = [
        f"{dataset.users.ids[u]}\t{dataset.items.ids[i]}\t{s!r}"
        for u in range(60)
        for i, s in zip(expected.indices[u].tolist(), expected.scores[u].tolist())
    ]
    shuffled = [rows[i] for i in torch.randperm(len(rows)).tolist()]
    with gzip.open(tmp_path / "lists.tsv.gz", "wt") as file:
        file.write("\n".join(("user_id\titem_id\tpoints", *shuffled)) + "\n")
    found = rankings_from_table(tmp_path / "lists.tsv.gz", dataset, score_column="points")
    for name in ("indices", "scores", "lengths"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


def test_the_command_line_learns_from_a_table(tmp_path):
    small = [
        "--data.options={n_users: 60, n_items: 80, mean_interactions: 12, min_interactions: 6, n_groups: 5}",
        "--progress=false", "--training.epochs=2", "--training.batch_size=64",
    ]  # fmt: skip
    assert main(["train", *small, f"--out={tmp_path}/t", "--model.width=8"]) == 0
    lists = ["recommend", small[0], f"--model={tmp_path}/t", "--k=20", f"--out={tmp_path}/lists.csv"]
    assert main([*lists, "--exclude=train"]) == 0
    distil = ["distill", *small, "--student.width=4", "--method.list_length=20", "--method.weight=1",
              "--method.options={n_interesting: 5, n_uninteresting: 5}"]  # fmt: skip
    assert main([*distil, f"--rankings={tmp_path}/lists.csv", f"--out={tmp_path}/a"]) == 0
    assert main([*distil, f"--teacher={tmp_path}/t", f"--out={tmp_path}/b"]) == 0
    torch.testing.assert_close(
        load_factors(tmp_path / "a").users, load_factors(tmp_path / "b").users, rtol=1e-2, atol=1e-3
    )


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (
            ["ann,kiwi,1", "ann,kiwi,2"],
            "user,item,score",
            "expected an item once in a list; got kiwi twice for user ann",
        ),
        (
            ["ann,kiwi,1", "eve,kiwi,2"],
            "user,item,score",
            "expected users and items of unnamed; got others .*'eve'",
        ),
        (["ann,lime,1"], "user,item,score", "expected users and items of unnamed; got others .*'lime'"),
        (["ann,kiwi,1"], "user,item,points", "score"),
        (["ann,kiwi,nan"], "user,item,score", r"csv:2: expected a finite number as score; got 'nan'"),
        ([], "user,item,score", "expected a list or more; got no row in .*lists.csv"),
        (["ann,fig,1", "cat,plum,2"], "user,item,score", "got 2 train items, which are left out in"),
        (["ann,kiwi"], "user,item,score", "expected"),
    ],
)
def test_tables_that_are_not_right_are_clear_errors(tmp_path, rows, header, message):
    with pytest.raises(ValueError, match=message):
        rankings_from_table(written(tmp_path / "lists.csv", *rows, header=header), DATASET)


def test_a_number_of_a_parquet_table_is_called_by_its_column(tmp_path):
    polars = pytest.importorskip("polars", reason="polars is not installed: no parquet file to read")
    table = polars.DataFrame({"user": ["ann"], "item": ["kiwi"], "rating_of_it": ["rating"]})
    table.write_parquet(tmp_path / "ratings.parquet")
    expected = "ratings.parquet: expected rating_of_it as numbers; got String"
    with pytest.raises(ValueError, match=expected):
        rankings_from_table(tmp_path / "ratings.parquet", DATASET, score_column="rating_of_it")


@pytest.mark.parametrize("name", ["nope", "one,two", "nope.csv", "nope.parquet", "nope/rankings.json"])
def test_lists_that_are_not_there(name, tmp_path, capsys):
    small = (
        "--data.options={n_users: 60, n_items: 80, mean_interactions: 12, min_interactions: 6, n_groups: 5}"
    )
    assert main(["distill", small, f"--rankings={tmp_path}/{name}", f"--out={tmp_path}/o"]) == 1
    wanted = "a table of lists" if name[4:] in (".csv", ".parquet") else "the file or folder of an extraction"
    error = capsys.readouterr().err
    assert f"expected {wanted}; got {tmp_path}/{name.removesuffix('/rankings.json')}, which" in error


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "json"])
def test_lists_as_json_are_those_of_a_table(tmp_path, suffix):
    table = written(tmp_path / "lists.csv", "ann,1,pear,2", "ann,2,kiwi,1.5", "cat,1,kiwi,7")
    expected = rankings_from_table(table, DATASET)
    lines = ['{"user": "ann", "items": ["pear", "kiwi"], "scores": [2, 1.5]}', "", '{"user": "cat", "items": ["kiwi"], "scores": [7]}']  # fmt: skip
    text = '{"ann": {"pear": 2, "kiwi": 1.5}, "cat": {"kiwi": 7}}' if suffix == "json" else "\n".join(lines)
    path = tmp_path / f"lists.{suffix}"
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())
    found = rankings_from_table(path, DATASET)
    assert torch.equal(found.indices, expected.indices)
    assert torch.equal(found.scores, expected.scores)
    assert is_table(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.jsonl", '{"user": "ann", "items": ["pear", "kiwi"]}'), ("a.json", '{"ann": ["pear", "kiwi"]}')],
)
def test_lists_without_scores_keep_their_order(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    found = rankings_from_table(tmp_path / name, DATASET)
    assert found.indices[0].tolist() == [2, 1]
    assert found.scores[0].tolist() == [0, -1]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '\n{"user": 1', 'a.jsonl:2: expected {"user": id, .*; got no JSON'),
        ("a.jsonl", '{"user": "ann"}', 'a.jsonl:1: expected {"user": id, .*; got {"user": "ann"}'),
        ("a.jsonl", '{"user": "ann", "items": ["fig"], "scores": []}', "a.jsonl:1: expected 1 scores, as items; got 0"),
        ("a.jsonl", '{"user": "ann", "items": ["fig"], "scores": ["x"]}', "expected scores as numbers; got others"),
        ("a.json", "[1]", r"a.json:1: expected {user: \[items, .*; got \[1\]"),
        ("a.json", '{"ann": 3}', "a.json:1: expected {user: .*; got 3 for 'ann'"),
    ],
)  # fmt: skip
def test_malformed_json_is_told_with_its_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        rankings_from_table(tmp_path / name, DATASET)


def test_a_table_in_memory(tmp_path):
    columns = {"user": ["ann", "ann", "cat"], "item": ["pear", "kiwi", "kiwi"], "score": [2.0, 1.5, 7.0]}
    table = written(tmp_path / "lists.csv", "ann,1,pear,2", "ann,2,kiwi,1.5", "cat,1,kiwi,7")
    for frame in (columns, pytest.importorskip("polars").DataFrame(columns)):
        assert torch.equal(
            rankings_from_table(frame, DATASET).indices, rankings_from_table(table, DATASET).indices
        )
    with pytest.raises(ValueError, match="got others in a dict: .*'durian'"):
        rankings_from_table(columns | {"item": ["pear", "kiwi", "durian"]}, DATASET)


@pytest.mark.parametrize("out", ["lists", "lists.safetensors"])
def test_extracted_lists_outlive_their_teacher_when_a_user_arrives(tmp_path, out, caplog):
    rows = [f"u{u},i{(u + step) % 9}" for u in range(20) for step in range(4)]
    before, after = tmp_path / "before.csv", tmp_path / "after.csv"
    before.write_text("\n".join(("user,item", *rows)) + "\n")
    after.write_text("\n".join(("user,item", *rows, "u3b,i1", "u3b,i2", "u3b,i3", "u3b,i4")) + "\n")
    assert (
        main(
            [
                "train",
                f"--data.source={before}",
                "--model.width=4",
                "--training.epochs=1",
                f"--out={tmp_path}/t",
            ]
        )
        == 0
    )
    lists = f"{tmp_path}/{out}"
    assert (
        main(["extract", f"--data.source={before}", f"--model={tmp_path}/t", "--k=5", f"--out={lists}"]) == 0
    )
    assert main(["distill", f"--data.source={after}", f"--rankings={lists}", "--training.epochs=1", "--student.width=2",
                 "--method.options={n_interesting: 2, n_uninteresting: 1}", f"--out={tmp_path}/s"]) == 0  # fmt: skip
    assert "aligned by ids: 1 of 21 users have no list there, and 0 of 100 items" in caplog.text
