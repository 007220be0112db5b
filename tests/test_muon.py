"""Muon: orthogonal updates, as PyTorch's own makes them."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, multiprocessing

from mtrec_edge_compress.muon import ADAM_SCALE, Muon, orthogonal


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (8, 8)])
def test_an_update_has_all_directions_alike_and_those_of_the_momentum(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonal(matrix)
    turned = left.T @ found @ right.T  # in the momentum's own directions nothing but their sizes is left
    assert torch.allclose(turned, turned.diagonal().diag(), atol=1e-4)
    assert turned.diagonal().min() > 0.6 and turned.diagonal().max() < 1.3
    assert torch.equal(orthogonal(torch.zeros(shape)), torch.zeros(shape))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this PyTorch has no Muon to compare with")
def test_it_moves_matrices_as_pytorchs_own_does() -> None:
    """Theirs rounds to bf16; what three updates move is alike within two percent of it."""
    torch.manual_seed(0)
    start, gradients = torch.randn(24, 48), torch.randn(3, 24, 48)
    moved = []
    for make in (
        lambda matrix: Muon([{"params": [matrix], "lr": 0.02, "weight_decay": 0.1}]),
        lambda matrix: torch.optim.Muon([matrix], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    ):
        matrix = torch.nn.Parameter(start.clone())
        optimizer = make(matrix)
        for gradient in gradients:
            matrix.grad = gradient.clone()
            optimizer.step()
        moved.append(matrix.detach() - start)
    assert (moved[0] - moved[1]).norm() < 0.02 * moved[1].norm()


def test_an_update_is_as_large_as_adams_and_nothing_moves_without_a_gradient() -> None:
    torch.manual_seed(0)
    matrix, other = torch.nn.Parameter(torch.zeros(32, 64)), torch.nn.Parameter(torch.ones(4, 4))
    matrix.grad = torch.randn(32, 64)
    Muon([{"params": [matrix, other], "lr": 0.1, "weight_decay": 0.5}]).step()
    assert matrix.detach().square().mean().sqrt() == pytest.approx(0.1 * ADAM_SCALE, rel=0.15)
    assert torch.equal(other, torch.ones(4, 4))


def three_steps() -> list[Tensor]:
    """Move matrices of unlike shapes, one of them without a gradient, by gradients that are the same anywhere."""
    generator = torch.Generator().manual_seed(0)
    matrices = [
        torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((8, 6), (4, 9), (5, 5), (3, 7))
    ]
    optimizer = Muon([{"params": matrices, "lr": 0.1, "weight_decay": 0.1}])
    for _ in range(3):
        for matrix in matrices[:3]:
            matrix.grad = torch.randn(matrix.shape, generator=generator)
        optimizer.step()
    return [matrix.detach() for matrix in matrices]


def process(rank: int, folder: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save(three_steps(), folder / f"{rank}.pt")
    distributed.destroy_process_group()


def same(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    return all(torch.equal(matrix, other) for matrix, other in zip(found, expected, strict=True))


@pytest.mark.slow
def test_processes_that_divide_the_matrices_move_them_as_one_process_does(tmp_path: Path) -> None:
    multiprocessing.spawn(process, args=(tmp_path,), nprocs=2)
    alone = three_steps()
    for rank in range(2):
        assert same(torch.load(tmp_path / f"{rank}.pt", weights_only=True), alone)
