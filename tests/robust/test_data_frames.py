"""Tables in memory: whatever holds the columns, the interactions are the same."""

from __future__ import annotations

from datetime import datetime, timezone

import numpy as np
import pytest

from rankdistill.data import Dataset, load, read_interactions

COLUMNS = {
    "user_id": ["ann", "bob", "bob"],
    "movieId": [7, 7, 9],
    "rating": [4.0, 1.5, 5.0],
    "timestamp": [30, 10, 20],
}


def polars_frame(columns: dict):
    return pytest.importorskip("polars").DataFrame(columns)


def pandas_frame(columns: dict):
    return pytest.importorskip("pandas").DataFrame(columns)


def arrow_table(columns: dict):
    return pytest.importorskip("pyarrow").table(columns)


def arrow_batch(columns: dict):
    return pytest.importorskip("pyarrow").RecordBatch.from_pydict(columns)


class Stream:
    """What only streams Arrow."""

    def __init__(self, columns: dict) -> None:
        self.frame = polars_frame(columns)

    def __arrow_c_stream__(self, requested_schema=None):
        return self.frame.__arrow_c_stream__(requested_schema)


FRAMES = [dict, polars_frame, pandas_frame, arrow_table, arrow_batch, Stream]


@pytest.mark.parametrize("frame", FRAMES)
def test_every_kind_of_table_is_read_alike(frame):
    found = read_interactions(frame(COLUMNS))
    assert found.users.tolist() == ["ann", "bob", "bob"]
    assert found.items.tolist() == [7, 7, 9]
    assert found.ratings.tolist() == [4.0, 1.5, 5.0]
    assert found.timestamps.tolist() == [30, 10, 20]
    assert found.timestamps.dtype == np.int64


@pytest.mark.parametrize("frame", FRAMES)
def test_dates_become_seconds(frame):
    moments = [datetime(2020, 1, day, 12) for day in (1, 2, 3)]
    found = read_interactions(frame(COLUMNS | {"timestamp": np.array(moments, dtype="datetime64[us]")}))
    assert found.timestamps.tolist() == [m.replace(tzinfo=timezone.utc).timestamp() for m in moments]


@pytest.mark.parametrize("frame", FRAMES)
def test_a_missing_date_is_refused(frame):
    moments = np.array(["2020-01-01", "NaT", "2020-01-03"], dtype="datetime64[us]")
    with pytest.raises(ValueError, match="expected finite timestamps; got nan at position 1"):
        read_interactions(frame(COLUMNS | {"timestamp": moments}))


@pytest.mark.parametrize("frame", FRAMES)
def test_columns_by_name_and_rows_by_rating(frame):
    columns = {"who": COLUMNS["user_id"], "what": COLUMNS["movieId"], "stars": COLUMNS["rating"]}
    found = read_interactions(frame(columns), user_column="who", item_column="what", min_rating=2)
    assert found.users.tolist() == ["ann", "bob"]
    with pytest.raises(ValueError, match=r"expected a user column; got \['who', 'what', 'stars'\]"):
        read_interactions(frame(columns))


@pytest.mark.parametrize("frame", FRAMES)
def test_a_data_set_of_a_table(frame):
    dataset = load(frame(COLUMNS), split="temporal", ratios=(0.5, 0.25, 0.25))
    direct = Dataset.from_interactions(
        read_interactions(frame(COLUMNS)), split="temporal", ratios=(0.5, 0.25, 0.25)
    )
    assert dataset.users.ids.tolist() == ["ann", "bob"]
    for part in ("train", "valid", "test"):
        assert getattr(dataset, part).items.tolist() == getattr(direct, part).items.tolist()
    parts = Dataset.from_arrays(frame(COLUMNS), test=frame({"user": ["ann"], "item": [9]}))
    assert (len(parts.train), len(parts.test)) == (3, 1)


def test_null_ids_are_refused():
    with pytest.raises(TypeError, match="expected users as integers or strings; got None at position 1"):
        read_interactions(polars_frame({"user": ["a", None], "item": [1, 2]}))


@pytest.mark.parametrize("option", [{"format": "csv"}, {"separator": ","}, {"columns": ["user", "item"]}])
def test_what_is_for_files_is_refused(option):
    with pytest.raises(ValueError, match=f"expected no {next(iter(option))}"):
        read_interactions(COLUMNS, **option)
