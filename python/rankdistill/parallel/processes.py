"""The processes that torchrun started, as one group."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

logger = logging.getLogger("rankdistill")

SECONDS = 600.0  # that a process waits for another one, by default


def choose_gpu(device: str) -> None:
    """For "cuda" the GPU of LOCAL_RANK becomes this process's; a ValueError where there is none.

    One that is there and not asked for is named in the log.
    """
    if device == "cuda":
        local, here = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= here:
            raise ValueError(f"config: expected a GPU of number {local} for device=cuda; got {here} GPUs")
        torch.cuda.set_device(local)
    elif torch.cuda.is_available():
        logger.info("a GPU is here, which device=cuda would use")


@contextmanager
def torchrun_processes(device: str = "cpu", timeout: float = SECONDS) -> Iterator[int]:
    """The rank of this process; under torchrun (WORLD_SIZE above 1) all of them are one group while the block lasts.

    Gradients go over gloo on processors and NCCL on GPUs, of which each process takes the one of its LOCAL_RANK; what
    is agreed upon beside them always goes over gloo.

    Args:
        device: "cpu" or "cuda".
        timeout: seconds that a process waits for another one before it gives up, > 0.

    Raises:
        ValueError: a timeout of 0 or less, or "cuda" without a GPU for this process.
        ConnectionError: not all processes came within the time-out.

    Example:
        >>> with torchrun_processes() as rank:  # without torchrun
        ...     rank
        0
    """
    if not timeout > 0:
        raise ValueError(f"torchrun_processes: expected a timeout above 0; got {timeout}")
    choose_gpu(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0
        return
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    except (RuntimeError, ValueError) as error:
        raise ConnectionError(
            f"torchrun_processes: expected {os.environ['WORLD_SIZE']} processes within {timeout:g} s; got {error}"
        ) from error
    # After a failure the group is broken, and leaving it in order may wait for others: the process ends anyway.
    yield dist.get_rank()
    dist.destroy_process_group()
