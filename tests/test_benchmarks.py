"""The benchmark harness: wrong answers are not timed, competitors that are missing are listed."""

from __future__ import annotations

import importlib
import json

import pytest
import torch
from benchmarks import extraction, hidden_layer
from benchmarks.__main__ import OPS
from benchmarks.citeulike_epochs import network_products
from benchmarks.harness import Missing, Options, PerShape, Shape, Work, measure, report, run
from benchmarks.inner_product_topk import SHAPES, gate, prepare, torch_chunked, torch_whole, verdict, work
from benchmarks.item_tables import difficult
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

from rankdistill import Rankings, inner_product_topk
from rankdistill.data import CSR
from tests.losses import every_method

OPTIONS = Options(rounds=3, warmup_s=0.0, save=False)
SHAPE = Shape("tiny", {"B": 32, "N": 400, "D": 8, "K": 5})
ADDITIONS = {"ours": torch.add, "theirs": torch.add}


def arguments(shape: Shape) -> tuple:
    return torch.ones(shape["B"], shape["D"]), torch.ones(shape["B"], shape["D"])


def agree(shape: Shape, args: tuple, outputs: dict) -> None:
    for name, output in outputs.items():
        assert torch.equal(output, args[0] + args[1]), name


def measured(variants: dict, options: Options = OPTIONS) -> dict:
    (result,) = measure([SHAPE], arguments, variants, agree, lambda shape: Work(flops=256.0), options)
    return result


@pytest.mark.parametrize("op", OPS)
def test_a_benchmark_has_a_main(op):
    assert callable(importlib.import_module(f"benchmarks.{op}").main)


def test_a_wrong_answer_is_not_timed():
    calls = []

    def wrong(a, b):
        calls.append(1)
        return a - b

    with pytest.raises(AssertionError, match="theirs"):
        measured(ADDITIONS | {"theirs": wrong})
    assert len(calls) == 1


def test_ratios_are_to_the_first_variant():
    result = measured(ADDITIONS)
    assert [r["variant"] for r in result["variants"]] == ["ours", "theirs"]
    assert result["variants"][0]["times_first"] == 1
    assert result["variants"][1]["times_first"] > 0


def test_preparations_are_made_once_per_shape():
    made = []

    def make(a, b):
        made.append(1)
        return lambda: a + b

    measured(ADDITIONS | {"theirs": PerShape(make)})
    assert len(made) == 1


def test_a_missing_competitor_is_listed(tmp_path, capsys):
    options = Options(rounds=3, warmup_s=0.0, out=tmp_path)
    result = measured(ADDITIONS | {"absent": Missing("absent is not installed")}, options)
    report("tiny", [result], {}, options, ["A note."])
    assert "| absent | absent is not installed |" in capsys.readouterr().out
    (page,) = tmp_path.glob("*.md")
    (stored,) = tmp_path.glob("*.json")
    assert "A note." in page.read_text()
    assert json.loads(stored.read_text())["results"][0]["missing"] == {"absent": "absent is not installed"}


def test_a_part_of_the_variants_keeps_the_first():
    options = Options(rounds=3, warmup_s=0.0, save=False, variants="the")
    result = measured(ADDITIONS | {"another": torch.add, "none": torch.sub}, options)
    assert [r["variant"] for r in result["variants"]] == ["ours", "theirs", "another"]


def test_one_call_measures_and_prints(capsys):
    results = run("tiny", [SHAPE], arguments, ADDITIONS, agree, lambda shape: Work(bytes=3072.0), OPTIONS)
    assert [r["shape"] for r in results] == ["tiny"]
    assert "× ours" in capsys.readouterr().out


def test_the_gate_of_exact_top_k_sees_wrong_lists():
    args = prepare(SHAPE)
    good = {
        "rankdistill": inner_product_topk(*args),
        "torch": torch_whole(*args),
        "torch in chunks": torch_chunked(*args),
    }
    gate(SHAPE, args, good)
    unmasked = (
        *args[:3],
        (torch.zeros(SHAPE["B"] + 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)),
    )
    with pytest.raises(AssertionError):
        gate(SHAPE, args, good | {"rankdistill": inner_product_topk(*unmasked)})
    with pytest.raises(AssertionError, match="torch: wrong scores"):
        gate(SHAPE, args, good | {"torch": torch_whole(*unmasked)})
    assert work(SHAPE).flops == 2 * 32 * 400 * 8


def scaled_gradient(output: tuple) -> tuple:
    return *output[:-1], 1.01 * output[-1]


WRONG = {
    "position_sample": ({"R": 500, "length": 60, "K": 5}, "ours", lambda drawn: 59 - drawn),
    "weighted_sample": ({"R": 5000, "M": 60, "K": 5}, "ours", lambda drawn: 59 - drawn),
    "pair_sample": (
        {"R": 500, "longest": 60, "K": 4, "T": 20, "distinct": 0},
        "ours",
        lambda pairs: pairs.flip(2),
    ),
    "gumbel_noise": ({"B": 500, "count": 8}, "ours", lambda noise: noise[:1].expand_as(noise)),
    "dropout_mask": ({"B": 500, "M": 2, "W": 8}, "ours", lambda kept: kept[:, :1].expand_as(kept)),
    "gathered_inner_product": (
        {"B": 8, "K": 3, "U": 9, "N": 50, "D": 4},
        "product_of_vectors",
        scaled_gradient,
    ),
    "triplet_angle_huber": ({"B": 9, "D_t": 5, "D_s": 3}, "composed", scaled_gradient),
    "cross_relation_distance": ({"B": 9, "G": 4, "D_t": 5, "D_s": 3}, "composed", scaled_gradient),
    "catalogue_log_mass": ({"B": 9, "N": 500, "D": 3}, "whole_scores", scaled_gradient),
}


@pytest.mark.parametrize("op", WRONG)
def test_gates_see_wrong_answers(op):
    sizes, right, wrong = WRONG[op]
    module, shape = importlib.import_module(f"benchmarks.{op}"), Shape("tiny", sizes)
    call = getattr(module, "forward_backward", lambda function: function)(getattr(module, right))
    args = module.prepare(shape)
    output = call(*args)
    outputs = dict.fromkeys(("rankdistill", "the same draws in torch"), output)
    module.gate(shape, args, outputs | {"theirs": output})
    with pytest.raises(AssertionError, match="theirs"):
        module.gate(shape, args, outputs | {"theirs": wrong(output)})


def test_the_gate_of_hidden_layers_makes_its_own():
    shape, drop = Shape("tiny", {"n": 6, "H": 5}), hidden_layer.drop
    args = hidden_layer.random_dropped(shape)
    hidden_layer.gate({"theirs": drop}, hidden_layer.random_dropped, drop)(shape, args, {"theirs": None})
    without_relu = lambda layer, kept, slopes: (layer * kept, slopes * kept)
    with pytest.raises(AssertionError, match="theirs"):
        hidden_layer.gate({"theirs": without_relu}, hidden_layer.random_dropped, drop)(
            shape, args, {"theirs": None}
        )


def test_every_shape_has_a_verdict():
    from benchmarks.inner_product_topk import GOALS

    assert all(len(values) == len(SHAPES) for goal in GOALS.values() for values in goal if values is not None)
    assert [verdict(*v) for v in ((3, 1, 2), (1.5, 1, 2), (0.5, 1, 2), (0.5, None, 2), (None, 1, 2))] == [
        "target", "floor", "below floor", "below target", "not measured",
    ]  # fmt: skip


def test_difficult_tables_are_what_their_names_say():
    tables = difficult(4, 500, 8)
    users, items = tables["scores ascending with the item id"]
    assert ((users @ items.T).diff(dim=1) > 0).all()
    assert (tables["all items equal"][1] == tables["all items equal"][1][0]).all()
    norms = tables["one giant norm"][1].norm(dim=1)
    assert norms.argmax() == 250
    assert norms[250] > 1000 * norms.median()
    for name, sign in (("descending", -1), ("ascending", 1)):
        norms = tables[f"skewed norms, {name} with the id"][1].norm(dim=1)
        assert sign * (norms[-100:].mean() - norms[:100].mean()) > 0


def test_extraction_is_measured_in_a_process_of_its_own(tmp_path, capsys):
    shape = Shape("tiny", {"U": 6000, "N": 900, "D": 8, "K": 5, "MiB": 48})
    extraction.prepare(shape, tmp_path)
    result = extraction.measured(shape, tmp_path, OPTIONS)
    facts = result["facts"]
    assert 0 < facts["peak_bytes"] <= 48 << 20
    assert facts["written_bytes"] > 6000 * (8 * 5 + 4)
    assert [r["variant"] for r in result["variants"]] == [
        "extract_rankings", "again: finished", "again: a shard lost", "torch in chunks, 512 users × 11.7188",
    ]  # fmt: skip
    report("extraction", [result], {}, OPTIONS, [extraction.note(result)])
    assert "within the limit of 48 MiB" in capsys.readouterr().out
    rankings = Rankings.load(tmp_path / "out")
    parts = load_file(tmp_path / "exclude.safetensors")
    exclude = CSR(parts["indptr"], parts["indices"], 900)
    users, items = (load_file(tmp_path / f"{name}.safetensors")[name] for name in ("users", "items"))
    extraction.check(rankings, users, items, 5, exclude)
    with pytest.raises(AssertionError):
        extraction.check(rankings, users, items, 5, CSR.empty(6000, 900))


@pytest.mark.parametrize("name", ["de", "htd", "phr", "freqd"])
def test_products_of_networks_are_counted(name):
    """Against what torch's products were asked for, in networks written out."""
    method, student = every_method.make(name), every_method.make_student(name)
    method.begin_epoch(0, student)
    batch = every_method.make_batch(method, 0)
    found = sum(product.operations for product in network_products(method, student, batch))
    D_t, D_s, counted = every_method.D_T, every_method.D_S, 0
    method.begin_epoch(0, student)  # dropout decides what FreqD touches
    for rows in method.together(student, batch) if name == "htd" else method.sides(student, batch):
        n = shown = len(rows.ids)
        if name == "freqd":
            shown = len(method.filter_rows(rows, slice(0, n))[1])
        x = torch.ones(shown, D_s, requires_grad=True)
        with FlopCounterMode(display=False) as counter:
            if name == "phr":
                network = [
                    torch.nn.Linear(D_t, len(method.bias_in)),
                    torch.nn.Linear(len(method.bias_in), D_t * D_s),
                ]
                network[1](network[0](torch.ones(n, D_t)).relu()).sum().backward()
            else:
                of_side = getattr(method, rows.side)
                M, H = getattr(of_side, "experts", of_side).bias_in.shape
                for _ in range(M):
                    torch.nn.Linear(H, D_t)(torch.nn.Linear(D_s, H)(x).relu()[:n]).sum().backward()
        counted += counter.get_total_flops()
    assert found == counted
