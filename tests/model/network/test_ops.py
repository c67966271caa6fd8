import pytest
import torch
from torch.nn import functional as F

from model.network.ops import Dropout, causal_convolution, unit


def test_the_convolution_and_its_gradients() -> None:
    torch.manual_seed(0)
    x_BLD = torch.randn(2, 5, 3, dtype=torch.double, requires_grad=True)
    weight_CD = torch.randn(4, 3, dtype=torch.double, requires_grad=True)
    expected = F.conv1d(
        F.pad(x_BLD.transpose(1, 2), (3, 0)), weight_CD.T[:, None], groups=3
    ).transpose(1, 2)
    torch.testing.assert_close(causal_convolution(x_BLD, weight_CD), expected)
    assert torch.autograd.gradcheck(causal_convolution, (x_BLD, weight_CD))


def test_a_convolution_wider_than_the_history() -> None:
    x_BLD = torch.ones(1, 2, 3, dtype=torch.double, requires_grad=True)
    weight_CD = torch.randn(4, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(causal_convolution, (x_BLD, weight_CD))


def test_unit_vectors_and_their_gradients() -> None:
    torch.manual_seed(0)
    vectors = torch.randn(4, 3, dtype=torch.double, requires_grad=True)
    torch.testing.assert_close(unit(vectors), F.normalize(vectors, dim=-1))
    assert torch.autograd.gradcheck(unit, (vectors,))
    assert not unit(torch.zeros(1, 3)).any()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_dropout_zeroes_a_share_and_keeps_the_mean(share: float) -> None:
    torch.manual_seed(0)
    x = torch.full((100, 2001), 3.0, requires_grad=True)
    dropout = Dropout(share)
    out = dropout(x)
    kept = out != 0
    assert abs(1 - kept.float().mean() - share) < 0.01
    assert abs(out.mean() - 3) < 0.1
    assert out[kept].unique().numel() == 1
    (gradient,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(gradient * 3, out)
    assert not torch.equal(dropout(x) != 0, kept)
    assert torch.equal(dropout.eval()(x), x)
