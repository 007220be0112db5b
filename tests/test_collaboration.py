"""Which items are linked, by which weights, and that training sees weights that are free of a user's own events."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_data
from tiny_data import GENRE, LIKE, RATING, no_texts, tiny_dataset
from tiny_training import COLLABORATE, tiny_arrays, without_collaboration, world_arrays, world_collaboration

from mtrec_edge_compress.baselines.item_to_item import ease_weights
from mtrec_edge_compress.baselines.signals import Signals
from mtrec_edge_compress.collaboration import (
    Collaboration,
    fit_collaboration,
    load_collaboration,
    save_collaboration,
    sparse_ease,
)
from mtrec_edge_compress.data.arrays import Arrays, History, build_arrays
from mtrec_edge_compress.data.schema import Fold, TaskSpec
from mtrec_edge_compress.evaluate import evaluate
from mtrec_edge_runtime.neighbours import Neighbours

SETTINGS = replace(COLLABORATE, links=2, penalties=(1.0,))


def liking(*likes: str, films: str = "abcdefgh", tasks: tuple[TaskSpec, ...] = (LIKE,)) -> Arrays:
    """Return a dataset in which each user likes some films, a letter each, in TRAIN."""
    events = [
        {"user_id": f"u{user:02}", "item_id": film, "value": 5.0, "timestamp": time}
        for user, liked in enumerate(likes)
        for time, film in enumerate(liked)
    ]
    return build_arrays(
        tiny_dataset(
            items=tiny_data.items(*({"item_id": film, "title": film} for film in films)),
            events=tiny_data.events(*events),
            texts=no_texts(),
            tasks=tasks,
        )
    )


def fit(arrays: Arrays, **changes: Any) -> Collaboration:
    return fit_collaboration(arrays, replace(SETTINGS, **changes), seed=0)[0]


def dense(neighbours: Neighbours) -> np.ndarray:
    """Return the weights as a matrix (items, items), event -> candidate."""
    rows = np.arange(len(neighbours.scale))
    return neighbours.affinity(rows, slice(0, len(rows))).T


def links(neighbours: Neighbours) -> set[tuple[int, int]]:
    """Return the pairs (event, candidate) that are linked, whatever their weights."""
    event = np.repeat(np.arange(len(neighbours.scale)), np.diff(neighbours.start))
    return set(zip(event.tolist(), neighbours.item.tolist(), strict=True))


def same(one: Neighbours, other: Neighbours) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("start", "item", "code", "scale"))


def matrices(collaboration: Collaboration) -> Iterable[Neighbours]:
    return (*collaboration.parts, collaboration.whole)


def random_gram(seed: int, *, users: int = 60, items: int = 12) -> np.ndarray:
    """Return X'X of users who like each item with its own probability."""
    rng = np.random.default_rng(seed)
    likes = (rng.random((users, items)) < rng.uniform(0.2, 0.6, items)).astype(np.float32)
    return likes.T @ likes


def test_two_items_by_hand() -> None:
    # a has three users, b two, who like a as well: from a to b 2 / (3 + 1), from b to a 2 / (2 + 1)
    expected = np.array([[0.0, 0.5], [2 / 3, 0.0]])
    gram = np.array([[3.0, 2.0], [2.0, 2.0]], np.float32)
    assert sparse_ease(gram, penalty=1.0, links=1).toarray() == pytest.approx(expected)
    whole = fit(liking("ab", "ab", "a")).whole
    assert dense(whole)[:2, :2] == pytest.approx(expected, abs=1e-3)
    assert links(whole) == {(0, 1), (1, 0)}


@pytest.mark.parametrize("links_an_item", [1, 2, 3, 50])
def test_the_greatest_positive_weights_of_ease_say_which_links_there_are(links_an_item: int) -> None:
    gram = random_gram(1)
    weights = ease_weights(gram, 5.0)
    found = sparse_ease(gram, penalty=5.0, links=links_an_item).tocoo()
    wanted = min(links_an_item * len(gram), int((weights > 0).sum()))
    least = np.sort(weights.ravel())[-wanted]
    assert found.nnz == wanted
    assert set(zip(*(index.tolist() for index in found.coords), strict=True)) == {
        (int(event), int(candidate)) for event, candidate in zip(*np.nonzero(weights >= least), strict=True)
    }


@pytest.mark.parametrize("links_an_item", [1, 3])
def test_a_candidates_weights_are_the_ridge_on_its_own_links(links_an_item: int) -> None:
    gram, penalty = random_gram(2), 5.0
    found = sparse_ease(gram, penalty=penalty, links=links_an_item)
    matrix, pattern = found.toarray(), found.copy()
    pattern.data[:] = 1
    checked = 0
    for candidate in range(len(gram)):
        chosen = np.flatnonzero(pattern.toarray()[:, candidate])
        damped = gram[np.ix_(chosen, chosen)] + penalty * np.eye(len(chosen))
        assert matrix[chosen, candidate] == pytest.approx(np.linalg.solve(damped, gram[chosen, candidate]), rel=1e-3)
        checked += len(chosen)
    assert checked == links_an_item * len(gram) and not matrix.diagonal().any()


def test_links_are_as_many_as_asked_for_at_most_and_never_from_an_item_to_itself() -> None:
    arrays = world_arrays()
    domains = {task.domain for task in arrays.tasks if task.negatives}
    for neighbours in matrices(world_collaboration()):
        found = links(neighbours)
        assert len(found) == len(neighbours) and all(event != candidate for event, candidate in found)
        for domain in domains:
            rows = arrays.domains[domain]
            here = [candidate for event, candidate in found if rows.start <= event < rows.stop]
            assert 0 < len(here) <= COLLABORATE.links * (rows.stop - rows.start)
            assert all(rows.start <= candidate < rows.stop for candidate in here)  # nor from domain to domain


def test_an_item_with_fewer_than_two_positives_has_no_links() -> None:
    whole = fit(liking("ab", "abc", "abd", "e")).whole
    assert {item for pair in links(whole) for item in pair} == {0, 1}


def test_an_event_that_is_no_like_links_nothing() -> None:
    arrays = liking("ab", "ab", "ab", "cd", "cd", "cd")
    disliked = np.where(arrays.event_item >= 2, np.float32(1.0), arrays.event_value)
    assert links(fit(replace(arrays, event_value=disliked)).whole) == {(0, 1), (1, 0)}


def checkerboard(users: int = 24) -> Arrays:
    """Even users like three of a, b, c, d, odd ones three of e, f, g, h."""
    blocks = "abcd", "efgh"
    return liking(*(blocks[user % 2].replace(blocks[user % 2][user // 2 % 4], "") for user in range(users)))


def test_two_blocks_of_users_link_items_of_their_own_block_alone() -> None:
    for neighbours in matrices(fit(checkerboard(), links=7)):
        found = links(neighbours)
        assert {item for pair in found for item in pair} == set(range(8))
        assert all(event // 4 == candidate // 4 for event, candidate in found)
        assert (dense(neighbours)[:4, 4:] == 0).all() and (dense(neighbours)[:4, :4].sum(axis=0) > 0).all()


def moved(arrays: Arrays, chosen: np.ndarray) -> Arrays:
    """The same dataset, but the chosen events are with the next item of their domain."""
    start, count = (np.zeros(len(arrays.item_ids), np.int64) for _ in range(2))
    for rows in arrays.domains.values():
        start[rows], count[rows] = rows.start, rows.stop - rows.start
    item = arrays.event_item
    following = start[item] + (item - start[item] + 1) % count[item]
    return replace(arrays, event_item=np.where(chosen, following, item))


@pytest.mark.parametrize("user", [0, 7, 50])
def test_what_training_sees_of_a_user_is_free_of_the_users_own_events(user: int) -> None:
    arrays, before = world_arrays(), world_collaboration()
    own = (arrays.event_user == user) & (arrays.event_fold == Fold.TRAIN)
    after, _ = fit_collaboration(moved(arrays, own), COLLABORATE, seed=0)
    assert np.array_equal(before.part, after.part)
    assert same(before.of_training(user), after.of_training(user))
    others = [number for number in range(COLLABORATE.parts) if number != before.part[user]]
    assert not any(same(before.parts[number], after.parts[number]) for number in others)
    assert not same(before.whole, after.whole)


def test_a_part_is_fitted_on_everybody_else() -> None:
    arrays, found = world_arrays(), world_collaboration()
    assert set(found.part.tolist()) == {0, 1} and len(found.part) == len(arrays.user_ids)
    for number, part in enumerate(found.parts):
        theirs = found.part[arrays.event_user] == number
        without = replace(arrays, event_fold=np.where(theirs, np.int8(Fold.TEST), arrays.event_fold))
        assert same(part, fit_collaboration(without, COLLABORATE, seed=0)[0].whole)


def test_what_is_held_out_changes_nothing() -> None:
    arrays, before = world_arrays(), world_collaboration()
    changed = moved(arrays, arrays.event_fold != Fold.TRAIN)
    assert not np.array_equal(changed.event_item, arrays.event_item)
    after, _ = fit_collaboration(changed, COLLABORATE, seed=0)
    assert all(same(one, other) for one, other in zip(matrices(before), matrices(after), strict=True))


def test_cold_items_have_no_links() -> None:
    cold = set(np.flatnonzero(world_arrays().cold).tolist())
    for neighbours in matrices(world_collaboration()):
        assert not cold & {item for pair in links(neighbours) for item in pair}


def test_a_penalty_is_chosen_for_each_ranked_domain_and_told() -> None:
    lines: list[str] = []
    settings = replace(COLLABORATE, penalties=(20.0, 200.0))
    _, chosen = fit_collaboration(world_arrays(), settings, seed=0, progress=lines.append)
    assert set(chosen) == {task.domain for task in world_arrays().tasks if task.negatives}
    for domain, words in chosen.items():
        penalty, count = words.split(", ")
        assert penalty in ("lambda=20", "lambda=200") and count.endswith(" links")
        assert f"collaboration of {domain}: {words}" in lines


@dataclass(frozen=True)
class Sums:
    """Scores items by the weights from the liked items, added up."""

    arrays: Arrays
    neighbours: Neighbours

    def pair_scores(self, history: History, domain: str) -> dict[str, np.ndarray]:
        task = ranked(self.arrays, domain)
        signals = Signals(self.arrays, task)
        liked = signals.liked(history) + signals.rows.start
        return {task.name: self.neighbours.affinity(liked, signals.rows).sum(axis=1) + signals.tie_break}


def ranked(arrays: Arrays, domain: str) -> TaskSpec:
    return next(task for task in arrays.tasks if task.domain == domain and task.negatives)


def test_the_penalty_is_the_one_that_ranks_the_validation_fold_best() -> None:
    arrays, penalties, best = world_arrays(), (0.5, 20.0, 200.0), []
    _, chosen = fit_collaboration(arrays, replace(COLLABORATE, penalties=penalties, tuning_users=1000), seed=0)
    systems = [Sums(arrays, fit(arrays, links=COLLABORATE.links, penalties=(p,)).whole) for p in penalties]
    for domain, words in chosen.items():
        task = ranked(arrays, domain).name
        found = [evaluate(system, arrays, fold=Fold.VALIDATION, tasks=[task], calibrated=False) for system in systems]
        best.append(penalties[int(np.argmax([evaluation.tasks[task]["ndcg@10"] for evaluation in found]))])
        assert words.startswith(f"lambda={best[-1]:g},")
    assert len(set(best)) > 1


def test_links_of_zero_leave_collaboration_out() -> None:
    arrays = checkerboard()
    found, chosen = fit_collaboration(arrays, replace(SETTINGS, links=0), seed=0)
    assert chosen == {} and len(found.part) == len(arrays.user_ids)
    assert len(found.parts) == SETTINGS.parts and not any(map(len, matrices(found)))


def test_a_domain_without_a_ranked_task_has_no_links() -> None:
    arrays = liking("ab", "ab", "ab", tasks=(RATING, GENRE))
    found, chosen = fit_collaboration(arrays, SETTINGS, seed=0)
    assert chosen == {} and not any(map(len, matrices(found)))


def test_a_domain_whose_items_nobody_likes_twice_has_no_links() -> None:
    for penalties in ((1.0,), (1.0, 10.0)):
        found, chosen = fit_collaboration(liking("ab", "cd"), replace(SETTINGS, penalties=penalties), seed=0)
        assert chosen == {"films": "lambda=1, 0 links"} and not any(map(len, matrices(found)))


def test_without_collaboration_every_user_reads_nothing() -> None:
    found = without_collaboration(tiny_arrays())
    assert all(len(found.of_training(user)) == 0 for user in range(len(tiny_arrays().user_ids)))
    assert len(found.whole) == 0 and len(found.whole.scale) == len(tiny_arrays().item_ids)


@pytest.mark.parametrize("make", [world_collaboration, lambda: without_collaboration(tiny_arrays(), parts=3)])
def test_what_is_saved_is_loaded(tmp_path: Path, make: Callable[[], Collaboration]) -> None:
    saved = make()
    save_collaboration(saved, tmp_path / "collaboration.npz")
    loaded = load_collaboration(tmp_path / "collaboration.npz")
    assert len(loaded.parts) == len(saved.parts) and np.array_equal(loaded.part, saved.part)
    assert all(same(one, other) for one, other in zip(matrices(saved), matrices(loaded), strict=True))
    assert [path.name for path in tmp_path.iterdir()] == ["collaboration.npz"]
