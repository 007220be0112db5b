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


def epoch(weighting: TaskWeighting, *steps: dict[str, float]) -> None:
    """Let the weighting see an epoch of losses."""
    for step in steps:
        weighting({name: torch.tensor(loss) for name, loss in step.items()})
    weighting.end_epoch()


def test_dwa_by_hand() -> None:
    """Losses fall from 4 to 2 and from 1 to 1: w = 2 softmax(0.5 / 2, 1 / 2), over lambda."""
    weighting = TaskWeighting(WEIGHTS, "dwa")
    assert weighting.averages is not None
    epoch(weighting, {"a.x": 3.0, "b.y": 1.0}, {"a.x": 5.0})  # a task that is absent is not averaged
    assert weighting.averages.share.tolist() == [1.0, 1.0]
    epoch(weighting, {"a.x": 2.0, "b.y": 1.0})
    a, b = math.exp(0.25), math.exp(0.5)
    share = [2 * a / (a + b), 2 * b / (a + b)]
    assert weighting.averages.share.tolist() == pytest.approx(share)
    total = weighting({"a.x": torch.tensor(3.0), "b.y": torch.tensor(4.0)})
    assert float(total) == pytest.approx(2 * share[0] * 3 + 0.5 * share[1] * 4)


def test_dwa_leaves_a_task_that_was_never_seen_out_of_the_sum() -> None:
    weighting = TaskWeighting({**WEIGHTS, "c.z": 1.0}, "dwa")
    for _ in range(2):
        epoch(weighting, {"a.x": 2.0, "b.y": 2.0})
    assert weighting.averages is not None and weighting.averages.share.tolist() == [1.0, 1.0, 1.0]


def test_dwa_goes_on_from_what_was_saved_in_the_middle_of_an_epoch() -> None:
    whole = TaskWeighting(WEIGHTS, "dwa")
    epoch(whole, {"a.x": 3.0, "b.y": 1.0})
    whole({"a.x": torch.tensor(1.0)})
    resumed = TaskWeighting(WEIGHTS, "dwa")
    resumed.load_state_dict(whole.state_dict())
    for weighting in (whole, resumed):
        epoch(weighting, {"a.x": 2.0, "b.y": 1.0})
    assert whole.averages is not None and resumed.averages is not None
    assert torch.equal(whole.averages.share, resumed.averages.share)
    assert whole.averages.means[0].tolist() == [1.5, 1.0]


def test_the_other_kinds_store_nothing_new() -> None:
    assert not TaskWeighting(WEIGHTS, "static").state_dict()
    assert list(TaskWeighting(WEIGHTS, "uncertainty").state_dict()) == ["log_variance"]


def test_gradnorm_by_hand() -> None:
    """Gradients of length 3 and 1, losses 1 and 1: targets are 2 and 2, steps 0.025 * 3/2 down and 0.025 * 1/2 up."""
    weighting = TaskWeighting(WEIGHTS, "gradnorm")
    states = torch.zeros(2, requires_grad=True)
    losses = {"a.x": 3 * states[0] + 1.0, "b.y": states[1] + 1.0}
    total = weighting(losses, [states])
    assert weighting.norms is not None
    moved = [1 - 0.025 * 1.5, 1 + 0.025 * 0.5]
    share = [2 * one / sum(moved) for one in moved]
    assert weighting.norms.share.tolist() == pytest.approx(share)
    assert float(total.detach()) == pytest.approx(2 * share[0] + 0.5 * share[1])
    total.backward()
    assert states.grad is not None and states.grad.tolist() == pytest.approx([2 * share[0] * 3, 0.5 * share[1]])


def test_gradnorm_favours_the_task_that_lags() -> None:
    """Equal gradients, losses 3 and 1: the second is to pull (1/2)^1.5 as hard as the mean; the first gets the rest."""
    weighting = TaskWeighting(WEIGHTS, "gradnorm")
    states = torch.zeros(2, requires_grad=True)
    for _ in range(400):
        weighting({"a.x": states[0] + 3.0, "b.y": states[1] + 1.0}, [states])
    assert weighting.norms is not None
    first, second = weighting.norms.share.tolist()
    assert (first, second) == pytest.approx((2 - 0.5**1.5, 0.5**1.5), abs=0.02)


def test_gradnorm_moves_no_task_that_does_not_reach_the_states() -> None:
    weighting = TaskWeighting({**WEIGHTS, "c.z": 0.0}, "gradnorm")
    states, other = torch.zeros(2, requires_grad=True), torch.ones(1, requires_grad=True)
    weighting({"a.x": 3 * states[0] + 1.0, "b.y": other.sum(), "c.z": states[1]}, [states])
    assert weighting.norms is not None and weighting.norms.share.tolist() == [1.0, 1.0, 1.0]
