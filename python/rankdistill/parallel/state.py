"""A checkpoint that one process has read, on all of them."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from rankdistill.rankings.distributed import Processes

Groups = dict[str, dict[str, Tensor]]


def broadcast_state(processes: Processes, read: tuple[Groups, dict] | None) -> tuple[Groups, dict] | None:
    """What rank 0 has read (`load_checkpoint`), or None, on every process; others give None.

    Args:
        processes: that call it together; their group carries CPU tensors.
        read: tensors by group and name, and facts; None where there is no checkpoint, or on other processes than rank 0.

    Cost:
        Each process holds the state once, and gets its bytes once.
    """
    if processes.size == 1:
        return read
    shapes = read and {g: {n: (t.shape, t.dtype) for n, t in named.items()} for g, named in read[0].items()}
    told = processes.share(read and (shapes, read[1]))[0]
    if told is None:
        return None
    groups: Groups = {}
    for group, named in told[0].items():
        groups[group] = {}
        for name, (shape, dtype) in named.items():
            tensor = read[0][group][name] if processes.rank == 0 else torch.empty(shape, dtype=dtype)
            with processes.connected():
                first = 0 if processes.group is None else dist.get_global_rank(processes.group, 0)
                dist.broadcast(tensor.reshape(-1).view(torch.uint8), first, group=processes.group)
            groups[group][name] = tensor
    return groups, told[1]
