"""Ranking on two and three processes: the lists, bytes and errors of one, whatever each of them holds."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from rankdistill import Rankings, distributed_inner_product_topk, extract_rankings, inner_product_topk
from rankdistill.cli import main
from rankdistill.data import CSR
from rankdistill.rankings.distributed import AgreementError, Processes
from tests.case import generator, randn
from tests.process import python
from tests.robust.extraction_tables import ROOM, SHARD, K, N, U, contents, in_files, least_limit, tables

SCRIPT = Path(__file__).with_name("distributed_ranks.py")
EVEN = {2: (0, 45, 90), 3: (0, 30, 60, 90)}
UNEVEN = {2: (0, 3, 90), 3: (0, 3, 10, 90)}
EMPTY_FIRST = {2: (0, 0, 90), 3: (0, 0, 0, 90)}
EMPTY_LAST = {2: (0, 90, 90), 3: (0, 50, 50, 90)}
NO_ITEMS = {2: (0, 0, 0), 3: (0, 0, 0, 0)}
TWO_ITEMS = {2: (0, 1, 2), 3: (0, 1, 2, 2)}


def case(users, items, k, *, exclude=None, bias=None, cuts=EVEN, counted=False, only=None) -> dict:
    return {
        "users": users, "items": items, "k": k, "exclude": exclude, "item_bias": bias, "cuts": cuts, "counted": counted,
        "only": only or {},
    }  # fmt: skip


def some_excluded(B: int, n: int, share: float = 0.2) -> tuple[torch.Tensor, torch.Tensor]:
    exclude = CSR.from_any(torch.rand(B, n, generator=generator(7)) < share)
    return exclude.indptr, exclude.indices


def good_cases() -> dict[str, dict]:
    users, items, bias = randn(40, 16, seed=5), randn(90, 16, seed=6), randn(90, seed=7)
    whole = users.round(), items.round()  # many equal scores, within a slice and across
    exclude, nearly_all = some_excluded(40, 90), some_excluded(40, 90, 0.95)
    odd = items.clone()
    odd[[3, 40, 70]] = torch.tensor([torch.nan, torch.inf, -torch.inf])[:, None]
    return {
        "plain": case(users, items, 13),
        "float64": case(users.double(), items.double(), 13, exclude=exclude, bias=bias.double()),
        "bfloat16, uneven": case(users.bfloat16(), items.bfloat16(), 13, exclude=exclude, cuts=UNEVEN),
        "float16, counted": case(users.half(), items.half(), 13, bias=bias.half(), counted=True),
        "ties": case(*whole, 25, exclude=exclude, cuts=UNEVEN),
        "nearly all excluded": case(*whole, 13, exclude=nearly_all, bias=bias),
        "first ranks empty": case(*whole, 13, exclude=exclude, bias=bias, cuts=EMPTY_FIRST, counted=True),
        "a later rank empty": case(*whole, 13, exclude=exclude, bias=bias, cuts=EMPTY_LAST),
        "not a number, infinite": case(users, odd, 90, exclude=exclude),
        "longer than the items": case(users, items, 200, exclude=exclude, cuts=UNEVEN),
        "no list": case(users, items, 0),
        "no user": case(users[:0], items, 13, exclude=some_excluded(0, 90)),
        "one user": case(users[:1], items, 13),
        "no items": case(users, items[:0], 13, bias=bias[:0], cuts=NO_ITEMS),
        "fewer items than ranks": case(users, items[:2], 1, bias=bias[:2], cuts=TWO_ITEMS),
    }  # fmt: skip


SHORT = "distributed_inner_product_topk: expected "
UNLIKE = f"ValueError: {SHORT}one B, D, k, dtype and use of exclude on all processes; got [40, 16, 13, 0, "
FAILED = f"AgreementError: {SHORT}every process to go on; got a failure of rank 1: "


def bad_cases() -> dict[str, tuple[dict, str, str]]:
    """name → (case, how rank 1's error begins, how rank 0's does)."""
    users, items = randn(40, 16, seed=5), randn(90, 16, seed=6)
    exclude = some_excluded(40, 90)
    beyond = exclude[0], exclude[1].clone()
    beyond[1][-1] = 90
    width = "ValueError: inner_product_topk: expected items of width 16, as users; got float32 [3, 15]"
    kind = f"TypeError: {SHORT}items with the dtype of users (torch.float32)"
    count = f"TypeError: {SHORT}k as an int; got float 2.0"
    outside = f"IndexError: {SHORT}exclude indices"
    alike = f"ValueError: {SHORT}the same users and exclude on all processes; got others on rank 1"
    swapped = users.flip(0)
    begin = f"ValueError: {SHORT}rank 1's slice to begin with item "

    def other(name: str, value) -> dict:
        given = {} if name != "first_item" else {"counted": True}
        return case(users, items, 13, exclude=exclude, only={1: {name: value}}, **given)

    return {
        "another k": (other("k", 14), UNLIKE, UNLIKE),
        "other users": (other("users", users[:39]), UNLIKE, UNLIKE),
        "users in another order": (other("users", swapped), alike, alike),
        "other exclusions": (other("exclude", some_excluded(40, 90, 0.19)), alike, alike),
        "no exclude": (other("exclude", None), UNLIKE, UNLIKE),
        "no gap": (other("first_item", 1), begin, begin),
        "another width": (case(users, items, 13, only={1: {"items": items[:3, :15]}}), width, FAILED + width),
        "another dtype": (other("items", items[:3].double()), kind, FAILED + kind),
        "k of no kind": (other("k", 2.0), count, FAILED + count),
        "excluded beyond the items": (other("exclude", beyond), outside, FAILED + outside),
    }  # fmt: skip


@dataclass(frozen=True)
class Ranks:
    """What the processes answered, by rank; the last one ended before its last answer."""

    world: int
    folder: Path
    answers: list[dict]


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request, tmp_path_factory) -> Ranks:
    world, folder = request.param, tmp_path_factory.mktemp("ranks")
    torch.save(good_cases() | {name: bad[0] for name, bad in bad_cases().items()}, folder / "cases")
    users, items = tables()
    files, bias = in_files(folder, users, items), randn(N, seed=4).round()
    exclude = CSR.from_any(torch.rand(U, N, generator=generator(1)) < 0.01)
    options = {"exclude": exclude, "item_bias": bias, "shard_size": SHARD}
    limit = least_limit(files, out=folder / "none", **options) + 2 * ROOM
    settings = {
        "files": [str(path) for path in files], "exclude": (exclude.indptr, exclude.indices), "bias": bias, "k": K,
        "shard_size": SHARD, "n_items": N, "n_users": U, "limit": limit, "lost": "rankings-00001-of-00003.safetensors",
    }  # fmt: skip
    torch.save(settings, folder / "extractions")
    extract_rankings(users, items, K, out=folder / "alone", **options)
    command = [sys.executable, str(SCRIPT)]
    processes = [
        subprocess.Popen([*command, str(rank), str(world), str(folder)], cwd="/", stderr=subprocess.PIPE, text=True)
        for rank in range(world)
    ]  # fmt: skip
    ended = [(process.communicate(timeout=240)[1], process.returncode) for process in processes]
    assert [status for _, status in ended] == [0] * (world - 1) + [9], [text for text, _ in ended]
    extract_rankings(*files, K, out=folder / "ended", **options)
    return Ranks(world, folder, [torch.load(folder / f"answers-{rank}") for rank in range(world)])


def every(ranks: Ranks, name: str) -> list:
    return [answers[name] for answers in ranks.answers]


@pytest.mark.parametrize("name", good_cases())
def test_lists_over_slices_are_those_of_one_process(ranks, name):
    one = good_cases()[name]
    expected = inner_product_topk(*(one[key] for key in ("users", "items", "k", "exclude", "item_bias")))
    for rank, found in enumerate(every(ranks, name)):
        assert not isinstance(found, str), found
        for part, wanted in zip(found, expected, strict=True):
            assert part.dtype == wanted.dtype, rank
            assert torch.equal(part, wanted), rank
        assert torch.equal(found[0].signbit(), expected.scores.signbit())


@pytest.mark.parametrize("name", bad_cases())
def test_processes_that_disagree_or_fail_are_errors_on_all(ranks, name):
    """And the next call on the same group works: all errors come before the last good answers."""
    _, own, others = bad_cases()[name]
    for rank, found in enumerate(every(ranks, name)):
        assert isinstance(found, str), f"rank {rank} went on"
        assert found.startswith(own if rank == 1 else others), found


@pytest.mark.parametrize("divide", ["users", "items"])
def test_folders_are_those_of_one_process(ranks, divide):
    expected = contents(ranks.folder / "alone")
    whole = Rankings.load(ranks.folder / "alone")
    for name in (f"{divide}-large", f"{divide}-small", f"{divide}, a shard lost"):
        for found in every(ranks, name):
            assert not isinstance(found, str), found
            assert torch.equal(found, whole.indices[:: U - 1]), name
    for name in ("large", "small"):
        assert contents(ranks.folder / f"{divide}-{name}") == expected, name


@pytest.mark.parametrize("divide", ["users", "items"])
def test_extractions_that_disagree_write_nothing(ranks, divide):
    last = ranks.world - 1
    for found in every(ranks, f"{divide}, another k"):
        assert found == (
            f"ValueError: extract_rankings: expected the same k on all processes; got {K} on rank 0, {K + 1} on rank {last}"
        )
    wrong = "ValueError: extract_rankings: expected divide as 'users' or 'items'; got 'rows'"
    *others, own = every(ranks, f"{divide}, no such division")
    assert own == wrong
    told = f"AgreementError: extract_rankings: expected every process to go on; got a failure of rank {last}: {wrong}"
    assert others == [told] * last
    assert not (ranks.folder / "none").exists()


@pytest.mark.parametrize("divide", ["users", "items"])
def test_a_process_that_fails_is_an_error_on_all_and_the_work_goes_on(ranks, divide):
    *others, own = every(ranks, f"{divide}, no room")
    assert own == "OSError: no room"
    last = ranks.world - 1
    assert (
        others
        == [
            f"AgreementError: extract_rankings: expected every process to go on; got a failure of rank {last}: {own}"
        ]
        * last
    )
    whole = Rankings.load(ranks.folder / "alone")
    for found in every(ranks, f"{divide}, room again"):
        assert torch.equal(found, whole.indices[:: U - 1])


def test_a_process_that_ends_is_an_error_on_the_others(ranks):
    *others, _ = ranks.answers
    for answers in others:
        text = answers["a process that ends"]
        assert text.startswith("AgreementError: extract_rankings: expected every process to answer; got "), (
            text
        )
        assert text.endswith("Another process has ended or hangs: what it said last says why")
    assert contents(ranks.folder / "ended") == contents(ranks.folder / "alone"), "one process took over"


def test_without_a_group_this_process_has_all_items():
    one = good_cases()["ties"]
    arguments = [one[key] for key in ("users", "items", "k", "exclude", "item_bias")]
    for part, wanted in zip(
        distributed_inner_product_topk(*arguments, first_item=0), inner_product_topk(*arguments)
    ):
        assert torch.equal(part, wanted)
    with pytest.raises(ValueError, match="slice to begin with item 0, after those of lower ranks; got 3"):
        distributed_inner_product_topk(*arguments, first_item=3)


@pytest.mark.parametrize(
    ("divide", "suffix"), [("items", ""), pytest.param("users", ".safetensors", marks=pytest.mark.slow)]
)
def test_the_command_line_under_torchrun(tmp_path, divide, suffix):
    """And one file in place of a folder, which rank 0 makes and then removes the folder."""
    data = ["--data.source=generated", "--data.options={n_users: 2100, n_items: 120}"]
    for name, rows in (("user", 2100), ("item", 120)):
        in_files(tmp_path, randn(rows, 8, seed=rows), randn(rows, 8, seed=rows))
        (tmp_path / "users.safetensors").rename(tmp_path / f"{name}.safetensors")
    vectors = [f"--{name}_vectors={tmp_path}/{name}.safetensors" for name in ("user", "item")]
    command = ["extract", *data, *vectors, "--k=7", "--shard_size=1024", f"--divide={divide}"]
    done = python(
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "rankdistill"),
        *command, f"--out={tmp_path}/two{suffix}", OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"2100 users, 7 of 120 items each: {tmp_path}/two{suffix}"], (
        "rank 0 alone tells"
    )
    assert main([*command, f"--out={tmp_path}/one{suffix}"]) == 0
    if suffix:
        assert (tmp_path / f"two{suffix}").read_bytes() == (tmp_path / f"one{suffix}").read_bytes()
        assert not list(tmp_path.glob("*.parts"))
    else:
        assert contents(tmp_path / "two") == contents(tmp_path / "one")


@pytest.mark.parametrize("error", [BrokenPipeError("a callback's"), ConnectionError("a callback's")])
def test_a_lost_connection_of_one_process_is_told_to_the_others(error):
    """It is no agreement's, which all have left and none is told."""
    told = []

    class Two(Processes):
        def agree(self, *facts, failure=None, **options):
            told.append(failure)
            if failure is None:
                raise AgreementError("expected every process to go on; got a failure of rank 1")

    processes = Two("test")
    with pytest.raises(type(error), match="a callback's"), processes.together():
        raise error
    with pytest.raises(AgreementError), processes.together(), processes.together():
        pass
    assert told == [error, None]
    assert issubclass(AgreementError, ConnectionError)
