"""A device that this machine need not have: tensors whose numbers are on the CPU, and that refuse others as a GPU would."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("meta")
# May be handed both: a copy, and a read or write of a tensor elsewhere at indices on the CPU.
CROSSES = {torch.ops.aten.copy_}
INDEXES = {torch.ops.aten.index, torch.ops.aten.index_put_, torch.ops.aten._index_put_impl_}


class Elsewhere(Tensor):
    """What stands on `DEVICE`; its numbers are `held`."""

    @staticmethod
    def __new__(cls, held: Tensor):
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        return Tensor._make_wrapper_subclass(cls, held.shape, dtype=held.dtype, device=DEVICE, **layout)

    def __init__(self, held: Tensor) -> None:
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), options=None):
        return run(function, args, options or {})


class WithElsewhere(TorchDispatchMode):
    """Tensors may be made on `DEVICE` and moved to it and back."""

    def __torch_dispatch__(self, function, types, args=(), options=None):
        return run(function, args, options or {})


def run(function, args, options):
    given = [leaf for leaf in tree_leaves((args, options)) if isinstance(leaf, Tensor)]
    away = any(isinstance(leaf, Elsewhere) for leaf in given)
    op = function.overloadpacket
    mixed = away and any(not isinstance(leaf, Elsewhere) and leaf.dim() for leaf in given)
    if mixed and op not in CROSSES and not (op in INDEXES and isinstance(args[0], Elsewhere)):
        raise RuntimeError(f"{function}: expected all tensors on one device")
    if options.get("device") is not None:
        away = torch.device(options["device"]) == DEVICE
        options = {**options, "device": torch.device("cpu")}
    held_args, held_options = tree_map_only(Elsewhere, lambda part: part.held, (args, options))
    found = function(*held_args, **held_options)
    if function._schema.is_mutable and args and found is held_args[0]:
        return args[0]
    return tree_map_only(Tensor, Elsewhere, found) if away else found


def moved(model: nn.Module) -> nn.Module:
    """The model, its parameters and buffers on `DEVICE`."""
    for module in model.modules():
        for name, part in module._parameters.items():
            if part is not None:
                module._parameters[name] = nn.Parameter(Elsewhere(part.data))
        for name, part in module._buffers.items():
            if part is not None:
                module._buffers[name] = Elsewhere(part)
    return model
