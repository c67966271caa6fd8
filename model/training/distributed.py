"""Several processes that train one network: `torchrun --nproc-per-node 2 -m cli train …`.

Each process takes its share of every batch. Gradients are summed over the processes, weighted by
their numbers of targets, so that a step is the one that a single process makes with the whole
batch: the same weights up to rounding without dropout, the same expectation with it.
Only the first process validates, writes and reports. Without torchrun there is one, the first.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch import distributed as dist

from model.data.dataset import IntArray


@contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Joins the processes that torchrun started, if it did; yields this process's device."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if not is_first():
        logging.getLogger("model").setLevel(logging.WARNING)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this process validates, writes and reports."""
    return rank() == 0


def barrier() -> None:
    """Returns once every process has called it."""
    if dist.is_initialized():
        dist.barrier()


def broadcast(value: float, device: torch.device) -> float:
    """Returns the first process's value in all of them."""
    if not dist.is_initialized():
        return value
    shared = torch.tensor(value, dtype=torch.double, device=device)
    dist.broadcast(shared, src=0)
    return shared.item()


def share(tensor: Tensor) -> None:
    """Overwrites a tensor with the first process's in all of them."""
    if dist.is_initialized():
        dist.broadcast(tensor, src=0)


def local_share(batch: IntArray) -> IntArray:
    """This process's samples of a batch; if there are none, one that must be ignored."""
    if not dist.is_initialized():
        return batch
    return batch[rank() :: dist.get_world_size()] if has_share(batch) else batch[:1]


def has_share(batch: IntArray) -> bool:
    """Whether the batch has a sample for this process."""
    return len(batch) > rank()


def average_gradients(parameters: Sequence[nn.Parameter], loss: Tensor, targets: Tensor) -> Tensor:
    """Turns the gradients of each process's mean loss into those of the mean over all targets.

    `targets` is the number of targets of this process. Returns the mean loss over all processes.
    """
    loss = loss.detach()
    if not dist.is_initialized():
        return loss
    tables = [p for p in parameters if p.grad is not None and p.grad.is_sparse]
    gradients = [p.grad for p in parameters if p.grad is not None and not p.grad.is_sparse]
    one = torch.ones_like(loss)
    flat = torch.cat([*(g.flatten() for g in gradients), loss[None], one[None]]) * targets
    dist.all_reduce(flat)
    total = flat[-1].clamp(min=1)
    flat /= total
    parts = torch.split(flat[:-2], [g.numel() for g in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
    for table in tables:
        table.grad = _sum(table.grad * (targets / total))  # type: ignore[operator]
    return flat[-2]


def _sum(sparse: Tensor) -> Tensor:
    """The sum of all processes' sparse gradients: the rows of one process after another's."""
    sparse = sparse.coalesce()
    rows, values = sparse.indices(), sparse.values()
    counts = [torch.zeros_like(rows[0, 0]) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor(rows.shape[1], device=rows.device))
    longest = max(int(count) for count in counts)

    def gathered(own: Tensor) -> list[Tensor]:
        padded = own.new_zeros(longest, *own.shape[1:])
        padded[: len(own)] = own
        found = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(found, padded)
        return [part[: int(count)] for part, count in zip(found, counts, strict=True)]

    return torch.sparse_coo_tensor(
        torch.cat(gathered(rows[0]))[None],
        torch.cat(gathered(values)),
        sparse.shape,
        check_invariants=False,
    )
