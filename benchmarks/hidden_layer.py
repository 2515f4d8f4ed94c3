"""What happens to hidden layers between matrix products, forward and backward, in place against torch's own passes."""

from __future__ import annotations

import torch

from benchmarks.harness import Options, Shape, Work, compiled, run
from rankdistill.ops import hidden_layer  # noqa: F401 (registers the ops)
from rankdistill.reference import hidden_layer as reference

WEIGHTED = [Shape("DE on CiteULike, a block of rows", {"n": 256, "M": 30, "H": 110})]
DROPPED = [Shape("FreqD on CiteULike, a network's items", {"n": 16_300, "H": 200})]
LAYERS = torch.ops.rankdistill


def random_weighted(shape: Shape) -> tuple:
    n, M, H = (shape[k] for k in "nMH")
    sizes = (n, M, H), (M, H), (n, M), (n, M, H)
    generator = torch.Generator().manual_seed(0)
    return *(torch.randn(size, generator=generator) for size in sizes), torch.empty(n, M, H)


def lasting_weighted(shape: Shape) -> tuple:
    """Layer, bias, shares, slopes that passes in place leave as they are, for time after time; and room."""
    layer, bias, shares, *others = random_weighted(shape)
    return layer.abs_(), bias.zero_(), shares.fill_(1), *others


def in_place(forward, backward):
    def call(layer, bias, shares, slopes, weighted):
        by_shares, by_bias = torch.zeros_like(shares), torch.zeros_like(bias)
        forward(layer, bias, shares, weighted)
        backward(slopes, layer, shares, weighted, by_shares, by_bias)
        return weighted, slopes, by_bias, by_shares

    return call


def weigh(layer, bias, shares):
    return (layer + bias).relu() * shares[:, :, None]


def by_autograd(weighted_of):
    def call(layer, bias, shares, slopes, room=None):
        leaves = [x.detach().requires_grad_() for x in (layer, bias, shares)]
        weighted = weighted_of(*leaves)
        return weighted.detach(), *torch.autograd.grad(weighted, leaves, slopes)

    return call


def random_dropped(shape: Shape) -> tuple:
    generator, size = torch.Generator().manual_seed(0), (shape["n"], shape["H"])
    kept = torch.rand(size, generator=generator) >= 0.2
    return torch.randn(size, generator=generator), kept, torch.randn(size, generator=generator)


def dropped_in_place(forward, backward):
    def call(layer, kept, slopes):
        forward(layer, kept)
        backward(slopes, kept)
        return layer, slopes

    return call


def drop(layer, kept, slopes):
    dropped = layer.relu() * kept
    return dropped, slopes * (dropped > 0)


def gate(variants: dict, make, reference):
    """What a variant makes of new random layers, against float64: those that are timed are too plain to tell."""

    def check(shape: Shape, args: tuple, outputs: dict) -> None:
        device = args[0].device
        given = tuple(a.to(device) for a in make(shape))
        expected = reference(*(a.double() if a.is_floating_point() else a for a in given))
        for name in outputs:
            found = variants[name](*(a.clone() for a in given))
            for mine, wanted in zip(found, expected, strict=True):
                torch.testing.assert_close(mine.double(), wanted, rtol=1e-5, atol=2e-5, msg=f"{name}: wrong")

    return check


def work_of_weighted(shape: Shape) -> Work:
    # Layers and slopes read and written, layers read again, what is weighted written twice.
    return Work(bytes=7 * 4.0 * shape["n"] * shape["M"] * shape["H"])


def work_of_dropped(shape: Shape) -> Work:
    # Layers, slopes and masks read and written, masks read again.
    return Work(bytes=19.0 * shape["n"] * shape["H"])


def main(options: Options) -> None:
    weighted = {
        "rankdistill": in_place(LAYERS.hidden_layer_weighted, LAYERS.hidden_layer_weighted_backward),
        "torch, in place": in_place(reference.weighted_layer, reference.weighted_layer_backward),
        "torch": by_autograd(weigh),
        "torch.compile of it": compiled(by_autograd, weigh),
    }
    check = gate(weighted, random_weighted, by_autograd(weigh))
    run("hidden_layer", WEIGHTED, lasting_weighted, weighted, check, work_of_weighted, options)
    dropped = {
        "rankdistill": dropped_in_place(LAYERS.hidden_layer_dropped, LAYERS.hidden_layer_kept),
        "torch, in place": dropped_in_place(reference.dropped_layer, reference.keep_where),
        "torch": drop,
        "torch.compile of it": compiled(lambda passes: passes, drop),
    }
    check = gate(dropped, random_dropped, drop)
    run("hidden_layer_dropped", DROPPED, random_dropped, dropped, check, work_of_dropped, options)
