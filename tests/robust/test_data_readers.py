"""Every format read, in its variants; every malformed line refused with file and line."""

from __future__ import annotations

import gzip
import re
import sys
import tracemalloc
from datetime import datetime, time, timedelta
from decimal import Decimal

import numpy as np
import polars
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdistill.data import Dataset, read_interactions

USERS, ITEMS, RATINGS, TIMES = [1, 1, 7], [10, 20, 10], [3.0, 5.0, 1.0], [100, 50, 7]

GOOD = {
    "a.csv": "user_id,item_id,rating,timestamp\n1,10,3,100\n1,20,5,50\n7,10,1,7\n",
    "quoted.csv": '"userId","movieId","rating","timestamp"\n"1","10",3.0,100\n1,20,5e0,50\n\n7,10,1,7',
    "order.csv": "time,other,iid,stars,user\n100,x,10,3,1\n50,\"y,\nz\",20,5,1\n7,,10,1,7\n",
    "spaced.csv": "user, item, rating, timestamp\n1, 10, 3, 100\n 1 ,20 ,5 ,50\n7,10,1,7\n",
    "a.tsv": "User\tItem\tRating\tTimestamp\n1\t10\t3\t100\n1\t20\t5\t50\n7\t10\t1\t7\n",
    "u.data": "1\t10\t3\t100\n1\t20\t5\t50\n7\t10\t1\t7\n",
    "ratings.dat": "1::10::3::100\n1::20::5::50\n7::10::1::7\n",
    "a.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t10\t3\t100\n1\t20\t5\t50\n7\t10\t1\t7\n",
    "a.train.rating": "1\t10\t3\t100\n1\t20\t5\t50\n7\t10\t1\t7\n",
}  # fmt: skip


def write(path, text: str, gz: bool = False, crlf: bool = False):
    data = (text.replace("\n", "\r\n") if crlf else text).encode()
    path = path.with_name(path.name + ".gz") if gz else path
    path.write_bytes(gzip.compress(data) if gz else data)
    return path


@pytest.mark.parametrize("gz", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("crlf", [False, True], ids=["lf", "crlf"])
@pytest.mark.parametrize("name", GOOD)
def test_one_interaction_a_line(tmp_path, name, gz, crlf):
    table = read_interactions(write(tmp_path / name, GOOD[name], gz, crlf))
    assert table.users.tolist() == USERS
    assert table.items.tolist() == ITEMS
    assert table.ratings.tolist() == RATINGS
    assert table.timestamps.tolist() == TIMES
    assert table.timestamps.dtype == np.int64


@pytest.mark.parametrize("gz", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("crlf", [False, True], ids=["lf", "crlf"])
@pytest.mark.parametrize(
    ("name", "text", "pairs"),
    [
        ("train.txt", "0 5 3 \n2\n\n3  9\t1\n0 7", [(0, 5), (0, 3), (3, 9), (3, 1), (0, 7)]),
        ("train.txt", "", []),
        ("train.txt", "4\n", []),
        ("users.dat", "2 5 3\n0\n1 9\n", [(0, 5), (0, 3), (2, 9)]),
        ("users.dat", "", []),
    ],
)
def test_one_user_a_line(tmp_path, name, text, pairs, gz, crlf):
    table = read_interactions(write(tmp_path / name, text, gz, crlf))
    assert list(zip(table.users.tolist(), table.items.tolist())) == pairs


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("blank", ["\n", "   \n", " \r\n"])
def test_blank_lines_are_skipped(tmp_path, name, blank):
    text = GOOD[name].replace("y,\nz", "y,z")  # else the line feed of a field
    table = read_interactions(write(tmp_path / name, blank + text.replace("\n", "\n" + blank) + blank))
    assert (table.users.tolist(), table.items.tolist()) == (USERS, ITEMS)
    assert (table.ratings.tolist(), table.timestamps.tolist()) == (RATINGS, TIMES)


CSV_HEADER = "user,item,rating,timestamp\n1,10,3,100\n"
INTER_HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t10\t3\t100\n"
MALFORMED = [
    ("a.csv", "", 1, "a header; got an empty file"),
    ("a.csv", "who,item\n1,2\n", 1, "a user column"),
    ("a.csv", "user,user_id,item\n1,2,3\n", 1, "one user column"),
    ("a.csv", CSV_HEADER + "1,2,3\n", 3, "4 fields; got 3"),
    ("a.csv", CSV_HEADER + "\n1,2,3,4,5\n", 4, "4 fields; got 5"),
    ("a.csv", CSV_HEADER + "1,2,3,4\n" * 700 + ",2,3,4\n", 703, "a user id; got an empty field"),
    ("a.csv", CSV_HEADER + "1,  ,3,4\n", 3, "a item id; got an empty field"),
    ("a.csv", CSV_HEADER + "1,2,x,4\n", 3, "a finite number as rating; got 'x'"),
    ("a.csv", CSV_HEADER + "1,2,nan,4\n", 3, "a finite number as rating; got 'nan'"),
    ("a.csv", CSV_HEADER + "1,2,,4\n", 3, "a finite number as rating; got ''"),
    ("a.csv", CSV_HEADER + "1,2,3,monday\n", 3, "a finite number as timestamp; got 'monday'"),
    ("a.csv", CSV_HEADER + "1,2,3,inf\n", 3, "a finite number as timestamp; got 'inf'"),
    ("a.csv", CSV_HEADER + '1,"2,3,4\n', 3, "well-formed fields"),
    ("a.csv", CSV_HEADER + "1,2\0,3,4\n", 3, "a NUL character"),
    ("a.tsv", CSV_HEADER.replace(",", "\t") + "1\t2\n", 3, "4 fields; got 2"),
    ("u.data", "1\t10\t3\t100\n1\t10\t3\n", 2, "4 fields; got 3"),
    ("u.data", "1\t10\t3\n", 1, "4 fields; got 3"),
    ("u.data", "1\t10\t3\t100\n\t10\t3\t5\n", 2, "a user id; got an empty field"),
    ("u.data", "1\t10\tgood\t100\n", 1, "a finite number as rating; got 'good'"),
    ("ratings.dat", "1::2::3::4\n1::2::3\n", 2, "4 fields; got 3"),
    ("ratings.dat", "1::2::3::4\n1\t2\t3\t4\n", 2, "fields separated by ::"),
    ("a.inter", "user_id\titem_id\n1\t2\n", 1, "columns as name:type"),
    ("a.inter", "user_id:token\titem_id:word\n1\t2\n", 1, "columns as name:type"),
    ("a.inter", INTER_HEADER + "1\t2\t3\t4\t5\n", 3, "4 fields; got 5"),
    ("a.inter", INTER_HEADER + "1\t2\tx\t4\n", 3, "a finite number as rating; got 'x'"),
    ("a.rating", "1\t2\t3\n1\t2\n", 2, "3 fields; got 2"),
    ("a.rating", "1\t2\n", 1, "4 fields; got 2"),
    ("train.txt", "0 1 2\n1 x 2\n", 2, "integers separated by spaces; got 'x'"),
    ("train.txt", "0 1 2\n\n1 -2\n", 3, "integers separated by spaces; got '-2'"),
    ("train.txt", "0,1\n", 1, "integers separated by spaces; got '0,1'"),
    (
        "train.txt",
        "0 1\n1 9999999999999999999\n",
        2,
        "integers separated by spaces; got '9999999999999999999'",
    ),
    ("users.dat", "2 1 5\n3 1 5\n", 2, "3 items, as the first number says; got 2"),
    ("users.dat", "2 1 5\n\n1 5\n", 2, "a count and that many items; got a blank line"),
    ("users.dat", "1 a\n", 1, "integers separated by spaces; got 'a'"),
]


@pytest.mark.parametrize(("name", "text", "line", "message"), MALFORMED)
@pytest.mark.parametrize("gz", [False, True], ids=["plain", "gz"])
def test_malformed_lines_are_named(tmp_path, name, text, line, message, gz):
    path = write(tmp_path / name, text, gz)
    with pytest.raises(ValueError, match=re.escape(f"{path}:{line}: expected ") + ".*" + re.escape(message)):
        read_interactions(path)


@pytest.mark.parametrize("name", [*GOOD, "train.txt", "users.dat"])
def test_bad_bytes_are_named_with_their_line(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"\xef\xbb\xbfa\nb\nc \xff\n")
    with pytest.raises(ValueError, match=re.escape(f"{path}:3: expected UTF-8 text; got byte 0xff")):
        read_interactions(path)


@pytest.mark.parametrize("name", [*GOOD, "train.txt", "users.dat"])
def test_broken_gzip_is_named_with_its_line(tmp_path, name):
    lines = "".join(f"{i * 7919 % 100_003}\t{i * 104_729 % 99_991}\n" for i in range(20_000))
    whole = gzip.compress(lines.encode())
    path = tmp_path / f"{name}.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"expected a whole gzip stream; got") as caught:
        read_interactions(path)
    line = int(re.search(r"\.gz:(\d+):", str(caught.value))[1])
    assert 5_000 < line < 15_000
    path.write_bytes(lines.encode())
    with pytest.raises(ValueError, match=r":1: expected a whole gzip stream"):
        read_interactions(path)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.inter"])
def test_string_ids_of_any_script(tmp_path, name):
    text = GOOD[name].replace("7", "Zoë 'β'").replace("20", "007")
    text = text.replace("Zoë 'β'\n", "7\n")  # the timestamp stays a number
    table = read_interactions(write(tmp_path / name, text))
    assert table.users.tolist() == ["1", "1", "Zoë 'β'"]
    assert table.items.tolist() == ["10", "007", "10"]


def test_ids_become_strings_together_however_late_the_first_one_is(tmp_path):
    rows = [(i, i) for i in range(1_000)]
    text = "user,item\n" + "".join(f"{u},{i}\n" for u, i in rows) + "u,1\n"
    table = read_interactions(write(tmp_path / "a.csv", text))
    assert table.users.tolist() == [*map(str, range(1_000)), "u"]
    assert table.items.tolist() == [*range(1_000), 1]


def test_a_long_id_takes_its_room_once(tmp_path):
    text = "user,item\n" + "1,2\n" * 20_000 + "u" * 3_000 + ",2\n"
    path = write(tmp_path / "a.csv", text)
    tracemalloc.start()
    try:
        Dataset.from_interactions(read_interactions(path))
        assert tracemalloc.get_traced_memory()[1] < 20e6, "an array of these strings takes 240 MB"
    finally:
        tracemalloc.stop()


def test_rows_that_are_left_out_leave_no_ids(tmp_path):
    """And what is left is integers where it can be."""
    text = "user,item,rating\nx,30,1\n7,20,5\n 5,20,4\n7 ,10,5\n"
    table = read_interactions(write(tmp_path / "a.csv", text), min_rating=4)
    assert (table.users.tolist(), table.items.tolist()) == ([7, 5, 7], [20, 20, 10])
    data = Dataset.from_interactions(table)
    assert (data.users.ids.tolist(), data.items.ids.tolist()) == ([5, 7], [10, 20])


fields = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=5)


@given(st.lists(st.tuples(fields, fields).filter(lambda pair: all(map(str.strip, pair))), max_size=20))
def test_what_csv_writes_is_read(tmp_path_factory, rows):
    import csv

    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("user", "item"), *rows])
    table = read_interactions(path)
    assert [str(user).strip() for user in table.users.tolist()] == [user.strip() for user, _ in rows]
    assert [str(item).strip() for item in table.items.tolist()] == [item.strip() for _, item in rows]


def test_columns_by_name_or_left_out(tmp_path):
    path = write(tmp_path / "a.csv", "user,who,item,what,rating,timestamp\n1,2,3,4,5,monday\n")
    table = read_interactions(path, user_column="who", item_column="what", timestamp_column=False)
    assert (table.users.tolist(), table.items.tolist(), table.timestamps) == ([2], [4], None)
    with pytest.raises(ValueError, match=r"a.csv:1: expected a column 'nobody'; got \['user'"):
        read_interactions(path, user_column="nobody")
    with pytest.raises(ValueError, match=r"expected no user_column, as u\.data has no header"):
        read_interactions(path, format="u.data", user_column="who")


@pytest.mark.parametrize(
    ("name", "text", "options"),
    [
        ("a.csv", GOOD["a.csv"].replace(",", ";"), {"separator": ";"}),
        ("a.csv", GOOD["a.tsv"], {"separator": "tab"}),
        ("a.csv", GOOD["a.tsv"], {"separator": "\t"}),
        ("a.tsv", GOOD["a.csv"].replace(",", "|"), {"separator": "|"}),
        ("a.csv", GOOD["a.csv"].partition("\n")[2], {"columns": ["user", "item", "stars", "time"]}),
        (
            "a.csv",
            GOOD["u.data"].replace("\t", ";"),
            {
                "columns": ["a", "b", "rating", "time"],
                "separator": ";",
                "user_column": "a",
                "item_column": "b",
            },
        ),
    ],
)
def test_other_separators_and_files_without_a_header(tmp_path, name, text, options):
    table = read_interactions(write(tmp_path / name, text), **options)
    found = (table.users.tolist(), table.items.tolist(), table.ratings.tolist(), table.timestamps.tolist())
    assert found == (USERS, ITEMS, RATINGS, TIMES)


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        ("a.csv", "user;item\n1;2\n", {}, r"a.csv:1: .* separator=';', --data.options.separator ';'"),
        ("a.csv", "user\titem\n1\t2\n", {}, r"a.csv:1: .* --data.options.separator 'tab'"),
        ("a.csv", "who,item\n1,2\n", {}, r"\. Name it: user_column='NAME', --data.options.user_column NAME"),
        ("a.csv", "1,2\n1,2\n", {}, r"--data.options.columns '\[user, item\]'"),
        ("a.csv", "1,2\n1,2,3\n", {"columns": ["user", "item"]}, "a.csv:2: expected 2 fields; got 3"),
        (
            "a.csv",
            "user,item\n",
            {"separator": "::"},
            "expected separator as one character or \"tab\"; got '::'",
        ),
        ("a.csv", "user,item\n", {"separator": '"'}, "expected separator as one character"),
        ("a.csv", "user,item\n", {"columns": "user"}, r"expected columns as a list of names.*; got 'user'"),
        ("a.csv", "user,item\n", {"columns": 2}, r"expected columns as a list of names.*; got 2"),
        ("a.csv", "user,item\n", {"min_rating": "four"}, "expected min_rating as a number; got 'four'"),
        (
            "u.data",
            "",
            {"separator": ";"},
            r"expected no separator for u\.data, only for csv and tsv; got ';'",
        ),
        ("a.inter", "", {"columns": ["user", "item"]}, "expected no columns for inter"),
    ],
)
def test_what_is_wrong_with_columns_says_the_cure(tmp_path, name, text, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        read_interactions(write(tmp_path / name, text), **options)


def test_dates_are_seconds_as_in_parquet(tmp_path):
    dates = ["2024-05-01", "2024-05-01 12:30:00", "2024-05-01T12:30:00.250000Z", "2024-05-01T12:30:00+02:00"]
    rows = [(user, 1, date) for user, date in enumerate(dates)]
    text = "user,item,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows)
    found = read_interactions(write(tmp_path / "a.csv", text)).timestamps.tolist()
    midnight = 19_844 * 86_400
    assert found == [midnight, midnight + 45_000, midnight + 45_000.25, midnight + 37_800]
    times = polars.Series([datetime(2024, 5, 1, 3, 4, 5, 678901), datetime(1969, 1, 2)])
    frame = polars.DataFrame({"user": [0, 1], "item": [1, 1], "timestamp": times})
    frame.write_parquet(tmp_path / "a.parquet")
    naive = "user,item,timestamp\n" + "".join(f"{u},1,{t.isoformat()}\n" for u, t in enumerate(times))
    of_text = read_interactions(write(tmp_path / "b.csv", naive)).timestamps.tolist()
    assert of_text == read_interactions(tmp_path / "a.parquet").timestamps.tolist()


@pytest.mark.parametrize(
    ("first", "later", "message"),
    [
        ("monday", "1", r":2: expected a date \(ISO 8601\) or a finite number as timestamp; got 'monday'"),
        ("2024-05-01", "monday", r":1203: expected a date .* as in the first row; got 'monday'"),
        ("2024-05-01", "1714521600", r":1203: expected a date .* as in the first row; got '1714521600'"),
        ("1714521600", "2024-05-01", r":1203: expected a finite number as timestamp; got '2024-05-01'"),
    ],
)
def test_dates_and_numbers_do_not_mix(tmp_path, first, later, message):
    text = "user,item,timestamp\n" + f"1,2,{first}\n" * 1201 + f"1,3,{later}\n"
    with pytest.raises(ValueError, match=message):
        read_interactions(write(tmp_path / "a.csv", text))


def test_min_rating(tmp_path):
    path = write(tmp_path / "u.data", GOOD["u.data"])
    assert read_interactions(path, min_rating=3).items.tolist() == [10, 20]
    with pytest.raises(ValueError, match=r"train.txt: expected ratings, for min_rating=4; got none"):
        read_interactions(write(tmp_path / "train.txt", "0 1\n"), min_rating=4)


def test_unknown_formats_list_the_choices(tmp_path):
    path = write(tmp_path / "a.xlsx", "")
    with pytest.raises(
        ValueError, match=r"expected format as one of csv, tsv, parquet.*; got the name 'a.xlsx'"
    ):
        read_interactions(path)
    with pytest.raises(ValueError, match="got 'excel'"):
        read_interactions(path, format="excel")
    with pytest.raises(FileNotFoundError):
        read_interactions(tmp_path / "none.csv")


class TestParquet:
    def table(self, **columns):
        return polars.DataFrame({"user_id": USERS, "item_id": ["a", "b", "a"], **columns})

    def test_values(self, tmp_path):
        frame = self.table(rating=RATINGS, timestamp=TIMES, unused=[None, 1, 2])
        frame = frame.with_columns(polars.col("item_id").cast(polars.Categorical))
        frame.write_parquet(tmp_path / "a.parquet")
        table = read_interactions(tmp_path / "a.parquet", min_rating=2)
        assert (table.users.tolist(), table.items.tolist()) == ([1, 1], ["a", "b"])
        assert (table.ratings.tolist(), table.timestamps.tolist()) == ([3.0, 5.0], [100, 50])

    @pytest.mark.parametrize("name", ["log[1].parquet", "log?.parquet", "*.parquet", "user_id=9/log.parquet"])
    def test_a_name_is_no_pattern(self, tmp_path, name):
        self.table().head(1).write_parquet(tmp_path / "log1.parquet")
        (tmp_path / name).parent.mkdir(exist_ok=True)
        with open(tmp_path / name, "wb") as file:
            self.table().write_parquet(file)
        table = read_interactions(tmp_path / name)
        assert (table.users.tolist(), table.items.tolist()) == (USERS, ["a", "b", "a"])

    def test_a_folder_is_no_file(self, tmp_path):
        (tmp_path / "a.parquet").mkdir()
        self.table().write_parquet(tmp_path / "a.parquet" / "part-0.parquet")
        with pytest.raises(IsADirectoryError, match=r"expected a file; got '.*a\.parquet', a folder"):
            read_interactions(tmp_path / "a.parquet")

    def test_dates_are_seconds(self, tmp_path):
        days = polars.Series([0, 1, 2], dtype=polars.Int32).cast(polars.Date)
        self.table(time=days).write_parquet(tmp_path / "a.parquet")
        assert read_interactions(tmp_path / "a.parquet").timestamps.tolist() == [0, 86_400, 172_800]

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"user_id": [1, None, 2]}, "row 2: expected a user; got null"),
            ({"rating": [1.0, float("nan"), 2.0]}, "row 2: expected a finite number as rating; got nan"),
            ({"rating": ["good", "bad", "x"]}, "expected rating as numbers; got String"),
            ({"item_id": ["a", "", "b"]}, "not empty; got '' at position 1"),
            ({"item_id": ["a", "b", "  "]}, "item ids that are not empty; got '  ' at position 2"),
            ({"item_id": ["a", "b", "b\0"]}, r"item ids without NUL characters; got 'b\\x00'"),
            (
                {"user_id": polars.Series([1, 2**63, 3], dtype=polars.UInt64)},
                f"within int64 .*; got 1 to {2**63} in",
            ),
            ({"time": [timedelta(1)] * 3}, r"timestamp as numbers or dates; got Duration.* in column 'time'"),
            ({"time": [time(1)] * 3}, "timestamp as numbers or dates; got Time in column 'time'"),
            ({"rating": [datetime(2024, 5, 1)] * 3}, "rating as numbers; got Datetime.* in column 'rating'"),
        ],
    )
    def test_bad_values(self, tmp_path, columns, message):
        self.table(**columns).write_parquet(tmp_path / "a.parquet")
        with pytest.raises(ValueError, match=f"a.parquet: .*{message}"):
            read_interactions(tmp_path / "a.parquet")

    @pytest.mark.parametrize(
        ("ids", "got"),
        [
            ([1.0, 2.0, 3.0], "float64"),
            ([Decimal(1)] * 3, "decimal"),
            ([b"a"] * 3, "binary"),
            ([[1]] * 3, "list"),
        ],
    )
    def test_ids_of_other_types(self, tmp_path, ids, got):
        self.table(user=ids).drop("user_id").write_parquet(tmp_path / "a.parquet")
        message = f"a.parquet: expected user ids as integers or strings; got {got}.* values in column 'user'"
        with pytest.raises(TypeError, match=message):
            read_interactions(tmp_path / "a.parquet")

    def test_decimals_are_numbers(self, tmp_path):
        columns = {"rating": list(map(Decimal, ["1.5", "2", "0.1"])), "time": list(map(Decimal, [7, 8, 9]))}
        self.table(**columns).write_parquet(tmp_path / "a.parquet")
        table = read_interactions(tmp_path / "a.parquet")
        assert (table.ratings.tolist(), table.timestamps.tolist()) == ([1.5, 2, 0.1], [7, 8, 9])

    @pytest.mark.parametrize("kind", ["Int8", "UInt64", "Int128"])
    def test_integers_of_any_width(self, tmp_path, kind):
        if not hasattr(polars, kind):
            pytest.skip(f"polars {polars.__version__} has no {kind}")
        columns = {
            name: polars.Series([5, 7, 5], dtype=getattr(polars, kind)) for name in ("user_id", "time")
        }
        self.table(**columns).write_parquet(tmp_path / "a.parquet")
        table = read_interactions(tmp_path / "a.parquet")
        assert table.users.tolist() == table.timestamps.tolist() == [5, 7, 5]
        assert table.timestamps.dtype == np.int64

    def test_ids_are_those_of_a_csv(self, tmp_path):
        frame = self.table().with_columns(item_id=polars.Series([" 07", "7 ", "7"]))
        frame.write_parquet(tmp_path / "a.parquet")
        frame.write_csv(tmp_path / "a.csv")
        for name in ("a.parquet", "a.csv"):
            assert read_interactions(tmp_path / name).items.tolist() == ["07", "7", "7"]
        frame[1:].write_parquet(tmp_path / "a.parquet")
        assert read_interactions(tmp_path / "a.parquet").items.tolist() == [7, 7]

    def test_bad_files(self, tmp_path):
        (tmp_path / "a.parquet").write_bytes(b"PAR1 nonsense")
        with pytest.raises(ValueError, match=r"a.parquet: expected a parquet file"):
            read_interactions(tmp_path / "a.parquet")
        with pytest.raises(FileNotFoundError):
            read_interactions(tmp_path / "b.parquet")
        polars.DataFrame({"x": [1]}).write_parquet(tmp_path / "a.parquet")
        with pytest.raises(ValueError, match=r"expected a user column; got \['x'\]"):
            read_interactions(tmp_path / "a.parquet")

    def test_without_polars_the_cure_is_named(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "polars", None)
        with pytest.raises(ImportError, match=r"pip install 'rankdistill\[data\]'"):
            read_interactions(tmp_path / "a.parquet")
