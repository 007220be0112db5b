"""Gradient surgery by numbers worked by hand; the library it needs may be missing."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_training import SETTINGS, source_for, tiny_arrays, tiny_learner
from torch import nn

from mtrec_edge_compress.surgery import surgical_backward
from mtrec_edge_compress.training import fit
from mtrec_edge_runtime.errors import StageError


def test_opposed_gradients_lose_what_goes_against_the_other() -> None:
    """(1, 0) and (-1, 1): the first becomes (1/2, 1/2), the second (0, 1); their sum is added to what is there."""
    pytest.importorskip("torchjd")
    shared, own = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.tensor(2.0))
    unused = nn.Parameter(torch.tensor(1.0))
    for _ in range(2):
        surgical_backward([shared[0] + own**2, shared[1] - shared[0]], [shared], [own, unused])
    assert shared.grad is not None and shared.grad.tolist() == [1.0, 3.0]
    assert own.grad is not None and float(own.grad) == 8.0 and unused.grad is None


def test_gradients_that_agree_add_up() -> None:
    pytest.importorskip("torchjd")
    one, other = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    surgical_backward([one[0] + one[1], one[0] + other.sum()], [one, other], [nn.Parameter(torch.zeros(1))])
    assert one.grad is not None and one.grad.tolist() == [2.0, 1.0]
    assert other.grad is not None and other.grad.tolist() == [1.0]


def test_without_the_library_the_next_step_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchjd.aggregation", None)
    monkeypatch.setitem(sys.modules, "torchjd", None)
    learner = tiny_learner(tiny_arrays(), weighting="pcgrad")
    settings = replace(SETTINGS, weighting="pcgrad")
    with pytest.raises(StageError, match=r"torchjd is not installed; the next step: pip install 'mtrec-edge\[mtl\]'"):
        fit(learner, source_for(learner, tiny_arrays()), settings, folder=tmp_path, device="cpu")
