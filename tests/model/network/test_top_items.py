import pytest
import torch

from model.network import top_items
from model.network.top_items import best_rows


@pytest.mark.parametrize("items_at_once", [7, 100])
def test_the_best_rows_left_whatever_the_parts(
    items_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(top_items, "MIN_ITEMS", items_at_once)
    monkeypatch.setattr(top_items, "SCORES_AT_ONCE", 1)
    torch.manual_seed(0)
    interests, table = torch.randn(5, 8), torch.randn(40, 8)
    excluded = torch.randint(40, (5, 12))
    excluded[:, 6:] = excluded[:, :6]  # they may repeat
    expected = (interests @ table.T).scatter(1, excluded, -torch.inf).topk(9, dim=1)
    scores, rows = best_rows(interests, table, excluded, 9)
    assert torch.equal(rows, expected.indices)
    torch.testing.assert_close(scores, expected.values)
    scores, rows = best_rows(interests, table, excluded, 50)
    assert rows.shape == (5, 40)
    assert torch.equal(scores == -torch.inf, (rows[..., None] == excluded[:, None]).any(dim=2))
