"""Adam over a network: dense, or for huge tables only on the rows that a step uses.

Shapes: R rows that have a gradient, D width.
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from model.network.gpt import GPT


class RowAdam(torch.optim.Optimizer):
    """Adam for tables of which a step uses few rows; gradients are sparse.

    A row without a gradient, or with one of zeros, is neither read nor written: it does not move,
    and its moments stay. A row that has a gradient at every step moves as with Adam.
    """

    def __init__(self, tables: list[nn.Parameter], lr: float) -> None:
        super().__init__(tables, {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-8})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Moves the rows that have a gradient."""
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    self._step(table, **group)

    def _step(
        self, table: Tensor, lr: float, betas: tuple[float, float], eps: float, **_: Any
    ) -> None:
        state = self.state[table]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
        state["step"] += 1
        rows_R, gradients_RD = rows_of(table.grad)  # type: ignore[arg-type]
        # index_select is five times as fast as indexing here.
        mean_RD = state["exp_avg"].index_select(0, rows_R).lerp_(gradients_RD, 1 - betas[0])
        square_RD = (
            state["exp_avg_sq"].index_select(0, rows_R).lerp_(gradients_RD.square(), 1 - betas[1])
        )
        state["exp_avg"].index_copy_(0, rows_R, mean_RD)
        state["exp_avg_sq"].index_copy_(0, rows_R, square_RD)
        steps = state["step"].item()
        rate = lr / (1 - betas[0] ** steps)
        spread_RD = square_RD.div_(1 - betas[1] ** steps).sqrt_().add_(eps)
        moved_RD = table.index_select(0, rows_R).addcdiv_(mean_RD, spread_RD, value=-rate)
        table.index_copy_(0, rows_R, moved_RD)


def rows_of(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the rows R of a sparse gradient that are not zero, ascending, and their values R D.

    Padding has a gradient of zeros.
    """
    gradient = gradient.coalesce()
    rows, values = gradient.indices()[0], gradient.values()
    (real_R,) = values.any(dim=1).nonzero(as_tuple=True)
    return rows[real_R], values.index_select(0, real_R)


class Optimizer:
    """AdamW over all weights; with `by_row`, RowAdam over the tables and AdamW over the rest.

    With `by_row` the tables' gradients become sparse, and weight decay applies to the rest only.
    """

    def __init__(
        self, model: GPT, rate: float, weight_decay: float = 0.0, by_row: bool = False
    ) -> None:
        tables: list[nn.Parameter] = []
        for table in model.tables():
            table.sparse = by_row
            if by_row:
                tables.append(cast("nn.Parameter", table.weight))
        rest = [p for p in model.parameters() if all(p is not table for table in tables)]
        self._parts: dict[str, torch.optim.Optimizer] = {
            "adam": torch.optim.AdamW(rest, lr=rate, weight_decay=weight_decay, fused=True)
        }
        if by_row:
            self._parts["rows"] = RowAdam(tables, lr=rate)

    def set_rate(self, rate: float) -> None:
        """Sets the learning rate of the next steps."""
        for part in self._parts.values():
            part.param_groups[0]["lr"] = rate

    def step(self) -> None:
        """Moves along the gradients, and clears them."""
        for part in self._parts.values():
            part.step()
            part.zero_grad(set_to_none=True)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yields its state by name: part.number.moment."""
        for name, part in self._parts.items():
            for number, state in part.state_dict()["state"].items():
                for key, value in state.items():
                    yield f"{name}.{number}.{key}", value

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restores a state of `tensors`."""
        for name, part in self._parts.items():
            moments: dict[int, dict[str, Tensor]] = {}
            for path, value in tensors.items():
                of, number, key = path.split(".")
                if of == name:
                    moments.setdefault(int(number), {})[key] = value
            part.load_state_dict(part.state_dict() | {"state": moments})
