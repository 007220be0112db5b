"""How the tasks' losses become one number."""

import math

import pytest
import torch

from mtrec_edge_compress.weighting import TaskWeighting

WEIGHTS = {"a.x": 2.0, "b.y": 0.5}


def test_static_weights_add_up() -> None:
    total = TaskWeighting(WEIGHTS, "static")({"a.x": torch.tensor(3.0), "b.y": torch.tensor(4.0)})
    assert float(total) == 2 * 3 + 0.5 * 4


def test_a_task_that_is_absent_costs_nothing() -> None:
    assert float(TaskWeighting(WEIGHTS, "static")({"b.y": torch.tensor(4.0)})) == 2.0


def test_static_weights_learn_nothing() -> None:
    assert not list(TaskWeighting(WEIGHTS, "static").parameters())


def test_uncertainty_by_hand() -> None:
    weighting = TaskWeighting(WEIGHTS, "uncertainty")
    assert weighting.log_variance is not None
    with torch.no_grad():
        weighting.log_variance.copy_(torch.tensor([0.5, 0.0]))
    total = weighting({"a.x": torch.tensor(3.0)})
    assert float(total.detach()) == pytest.approx(2.0 * 0.5 * (math.exp(-0.5) * 3.0 + 0.5))


def test_uncertainty_moves_only_the_tasks_that_are_present() -> None:
    weighting = TaskWeighting(WEIGHTS, "uncertainty")
    assert weighting.log_variance is not None
    optimizer = torch.optim.SGD(weighting.parameters(), lr=0.1)
    weighting({"a.x": torch.tensor(3.0)}).backward()
    optimizer.step()
    moved = weighting.log_variance.detach()
    assert float(moved[0]) == pytest.approx(0.1 * 2.0 * 0.5 * (3.0 - 1.0))
    assert moved[1] == 0


def test_uncertainty_settles_where_the_variance_is_the_loss() -> None:
    weighting = TaskWeighting({"a.x": 1.0}, "uncertainty")
    optimizer = torch.optim.SGD(weighting.parameters(), lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        weighting({"a.x": torch.tensor(3.0)}).backward()
        optimizer.step()
    assert weighting.log_variance is not None
    assert float(weighting.log_variance.exp().detach()) == pytest.approx(3.0, rel=1e-3)
