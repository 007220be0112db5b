"""The latency table: fitted exactly to times that follow it; pruning by it keeps what is worth its time."""

import pytest
import torch

from mtrec_edge_compress.latency_table import LatencyTable, fit_table, shapes_to_time
from mtrec_edge_compress.prune import keep_within

TABLE = LatencyTable(fixed=0.1, layer=0.05, head=0.02, unit=0.001)


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
    kept_heads, kept_units = keep_within((heads, units), TABLE, whole - 0.01)
    assert [part.tolist() for part in kept_heads] == [[0], [0, 1]]
    assert [len(part) for part in kept_units] == [32, 32]


def test_a_layer_keeps_one_head_and_sixteen_units_however_little_time_there_is() -> None:
    heads, units = [torch.ones(3)], [torch.arange(64.0)]
    kept_heads, kept_units = keep_within((heads, units), TABLE, 0.0)
    assert len(kept_heads[0]) == 1 and kept_units[0].tolist() == list(range(48, 64))


def test_time_enough_removes_nothing() -> None:
    kept_heads, kept_units = keep_within(([torch.ones(3)], [torch.ones(64)]), TABLE, 100.0)
    assert len(kept_heads[0]) == 3 and len(kept_units[0]) == 64
