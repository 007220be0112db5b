"""The latency table: fitted exactly to times that follow it; pruning by it keeps what is worth its time."""

from dataclasses import replace

import pytest
import torch

from mtrec_edge_compress.latency_table import LatencyTable, fit_table, shapes_to_time
from mtrec_edge_compress.prune import keep_within

TABLE = LatencyTable(fixed=0.1, layer=0.05, head=0.02, unit=0.001)


def all_of(heads: list[torch.Tensor], units: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Every head and unit, as indices."""
    return [torch.arange(len(part)) for part in heads], [torch.arange(len(part)) for part in units]


def test_times_that_follow_a_table_give_it_back() -> None:
    shapes = shapes_to_time([(12, 1536), (12, 1536), (12, 1536)])
    found = fit_table(shapes, [TABLE.predict(shape) for shape in shapes])
    for name in ("fixed", "layer", "head", "unit"):
        assert getattr(found, name) == pytest.approx(getattr(TABLE, name), abs=1e-6)


def test_what_is_worth_least_for_its_time_goes_first() -> None:
    """A head takes 0.02 ms, 16 units 0.016 ms; head 1 of layer 0 is worth nothing."""
    heads = [torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])]
    units = [torch.full((32,), 0.1), torch.full((32,), 0.1)]
    whole = TABLE.predict([(2, 32), (2, 32)])
    kept_heads, kept_units = keep_within((heads, units), all_of(heads, units), TABLE, whole - 0.01)
    assert [part.tolist() for part in kept_heads] == [[0], [0, 1]]
    assert [len(part) for part in kept_units] == [32, 32]


def test_a_layer_keeps_one_head_and_sixteen_units_however_little_time_there_is() -> None:
    heads, units = [torch.ones(3)], [torch.arange(64.0)]
    kept_heads, kept_units = keep_within((heads, units), all_of(heads, units), TABLE, 0.0)
    assert len(kept_heads[0]) == 1 and kept_units[0].tolist() == list(range(48, 64))


def test_time_enough_removes_nothing() -> None:
    scores = [torch.ones(3)], [torch.ones(64)]
    kept_heads, kept_units = keep_within(scores, all_of(*scores), TABLE, 100.0)
    assert len(kept_heads[0]) == 3 and len(kept_units[0]) == 64


def test_what_the_recipe_removed_does_not_come_back_and_heads_are_not_stripped_for_units() -> None:
    """Heads are worth more a piece and take longer; a little less time takes a little."""
    table = LatencyTable(fixed=0.1, layer=0.05, head=0.02, unit=0.0003)
    scores = [torch.full((12,), 0.29) for _ in range(3)], [torch.full((1536,), 0.026) for _ in range(3)]
    kept = [torch.arange(12) for _ in range(3)], [torch.arange(384) for _ in range(3)]
    shape = [(12, 384)] * 3
    heads, units = keep_within(scores, kept, table, table.predict(shape) - 0.02)
    assert sum(map(len, heads)) >= 34 and sum(map(len, units)) <= 3 * 384
    assert all(set(mine.tolist()) <= set(range(384)) for mine in units)


def test_what_takes_no_time_is_kept() -> None:
    scores = [torch.ones(3)], [torch.ones(64)]
    heads, units = keep_within(scores, all_of(*scores), LatencyTable(0.1, 0.05, 0.0, 0.001), 0.0)
    assert len(heads[0]) == 3 and len(units[0]) == 16


def test_a_number_that_noise_would_make_negative_is_none_and_the_others_fit_best() -> None:
    shapes = shapes_to_time([(12, 1536), (12, 1536)])
    times = [TABLE.predict(shape) for shape in shapes]
    times[2] = times[1] - 0.3  # heads alone: much faster than bare
    found = fit_table(shapes, times)
    assert min(found.fixed, found.layer, found.head, found.unit) == 0

    def error(table: LatencyTable) -> float:
        return sum((table.predict(shape) - time) ** 2 for shape, time in zip(shapes, times, strict=True))

    assert all(
        error(found) <= error(replace(found, **{name: getattr(found, name) * factor})) + 1e-9
        for name in ("fixed", "layer", "head", "unit")
        for factor in (0.9, 1.1)
    )
