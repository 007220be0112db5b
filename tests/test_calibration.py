"""A scorer whose logits are twice too sure: the temperature that mends it is 2."""

import numpy as np
import pytest
from tiny_models import dataset

from mtrec_edge_compress.calibration import best_temperature, fit_temperatures
from mtrec_edge_compress.data.arrays import build_arrays
from mtrec_edge_compress.data.schema import Fold
from mtrec_edge_runtime import metrics


def sure(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    honest = rng.normal(size=20_000)
    return 2 * honest, (rng.random(20_000) < metrics.sigmoid(honest)).astype(float)


def test_the_temperature_undoes_what_made_the_logits_too_sure() -> None:
    logits, labels = sure()
    temperature = best_temperature(logits, labels)
    assert temperature == pytest.approx(2.0, rel=0.05)
    before, after = (metrics.ece(metrics.sigmoid(logits / t), labels) for t in (1.0, temperature))
    assert after < 0.015 < 0.05 < before


def test_a_temperature_stays_in_its_range() -> None:
    labels = np.array([0.0, 1.0] * 50)
    assert 9 < best_temperature(np.where(labels == 1, -9.0, 9.0), labels) <= 10.0  # always wrong
    assert 0.1 <= best_temperature(np.where(labels == 1, 0.01, -0.01), labels) < 0.11  # always right


class Constant:
    """One logit for every film; remembers which histories were shown."""

    def __init__(self, items: int) -> None:
        self.items, self.shown = items, []

    def pair_scores(self, history, domain):
        self.shown.append((domain, len(history.items)))
        return {"movies.like": np.full(self.items, -3.0), "movies.rating": np.full(self.items, 3.0)}


def test_only_explicit_binary_tasks_with_enough_validation_events_have_one() -> None:
    few = build_arrays(dataset())  # 12 users, one validation event each
    assert fit_temperatures(Constant(30), few) == {}
    many = build_arrays(dataset(users=150))
    scorer = Constant(30)
    found = fit_temperatures(scorer, many)
    assert set(found) == {"movies.like"}
    validation = many.event_fold == Fold.VALIDATION
    likes = many.labels("movies.like")[validation]
    share = likes[~np.isnan(likes)].mean()
    assert 3.0 / found["movies.like"] == pytest.approx(np.log((1 - share) / share), abs=0.01)
    assert set(scorer.shown) == {("movies", 8), ("movies", 9)}  # earlier events; a third viewed a product too
