import pytest
import torch

from model.network import top_items
from model.network.top_items import best_rows


@pytest.mark.parametrize("items_at_once", [7, 100])
def test_the_best_open_rows_whatever_the_parts(
    items_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(top_items, "LEAST_ITEMS", items_at_once)
    monkeypatch.setattr(top_items, "SCORES_AT_ONCE", 1)
    torch.manual_seed(0)
    interests, table = torch.randn(5, 8), torch.randn(40, 8)
    closed = torch.randint(40, (5, 12))
    closed[:, 6:] = closed[:, :6]  # they may repeat
    expected = (interests @ table.T).scatter(1, closed, -torch.inf).topk(9, dim=1)
    scores, rows = best_rows(interests, table, closed, 9)
    assert torch.equal(rows, expected.indices)
    torch.testing.assert_close(scores, expected.values)
    scores, rows = best_rows(interests, table, closed, 50)
    assert rows.shape == (5, 40)
    assert torch.equal(scores == -torch.inf, (rows[..., None] == closed[:, None]).any(dim=2))
