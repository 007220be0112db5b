import dataclasses

import numpy as np
import pytest
from tiny_models import MAX_TOKENS, TASKS, VOCABULARY, dataset, id_rows, student_model

from mtrec_edge_compress.agreement import make_pool, rank_correlation, ranking_agreement, top_overlap
from mtrec_edge_compress.data.arrays import build_arrays
from mtrec_edge_compress.evaluate import Evaluation
from mtrec_edge_compress.export import export_onnx
from mtrec_edge_compress.graphs import Graphs
from mtrec_edge_compress.quantize import quantize
from mtrec_edge_compress.recipe import Verify
from mtrec_edge_compress.verify import retentions, verify
from mtrec_edge_runtime.neighbours import make_neighbours, no_neighbours

EASY = Verify(top10_overlap=0.0, kendall_tau=-1.0, label_agreement=0.0)  # random models hardly tell candidates apart


@pytest.fixture(scope="module")
def arrays():
    return build_arrays(dataset())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("graphs")
    export_onnx(student_model(), path)
    quantize(path, path / "int8", id_rows())
    return path


@pytest.fixture(scope="module")
def ids(arrays):
    rng = np.random.default_rng(0)
    return [rng.integers(0, VOCABULARY, rng.integers(3, 12)) for _ in arrays.item_ids]


@pytest.fixture(scope="module")
def neighbours(arrays):
    """Every movie is linked to the one after it."""
    items, films = len(arrays.item_ids), 30
    start = np.minimum(np.arange(items + 1), films)
    return make_neighbours(start, (np.arange(films) + 1) % films, np.linspace(0.1, 0.5, films))


@pytest.fixture(scope="module")
def pool(arrays, ids, neighbours):
    return make_pool(arrays, ids, "movies", neighbours=neighbours, max_history=5, candidates=20, users=6)


def evaluation(*, rating=None, like=None, genre=None, tags=None):
    """Headline values of the four tasks; None is a task that was not measured."""
    values = {
        ("movies.rating", "rmse", 1.0): rating,
        ("movies.like", "ndcg@10", 0.0): like,
        ("movies.genre", "macro_f1", 0.0): genre,
        ("products.tags", "span_f1", 0.0): tags,
    }
    tasks = {name: {metric: value} for (name, metric, _), value in values.items() if value is not None}
    chance = {name: {metric: level} for name, metric, level in values}
    return Evaluation(tasks, {}, chance, {}, {}, {})


def check(folder, pools, *, model=None, evaluations=None, labels=None, limits=EASY):
    return verify(
        model or student_model(),
        fp32=folder,
        int8=folder / "int8",
        pools=pools,
        evaluations=evaluations or {},
        labels=labels or {},
        vocabulary=VOCABULARY,
        max_tokens=MAX_TOKENS,
        limits=limits,
    )


def test_top_overlap_counts_the_shared_of_ten():
    scores = np.arange(20.0)
    assert top_overlap(scores, scores) == 1.0
    assert top_overlap(scores, -scores) == 0.0
    swapped = scores.copy()
    swapped[[9, 10]] = swapped[[10, 9]]  # the last of the top ten changes places with the first below it
    assert top_overlap(scores, swapped) == 0.9


def test_rank_correlation_is_kendalls():
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([10.0, 20, 30])) == 1.0
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])) == -1.0
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([1.0, 3, 2])) == pytest.approx(1 / 3)


def test_a_dead_head_does_not_correlate():
    assert rank_correlation(np.array([1.0, 2.0]), np.array([5.0, 5.0])) == 0.0
    assert rank_correlation(np.array([4.0, 4.0]), np.array([5.0, 5.0])) == 1.0


def test_pool_holds_each_users_latest_events_and_the_candidates_priors(arrays, pool):
    assert len(pool.users) == 6 and pool.priors.shape == (20, 3)
    assert all(1 <= len(user.items) <= 5 for user in pool.users)
    assert max(int(user.items.max()) for user in pool.users) < len(pool.ids)
    assert not np.isnan(np.concatenate([user.values for user in pool.users])).any()


def test_pool_holds_what_each_users_events_say_of_the_candidates(arrays, ids, neighbours):
    pool = make_pool(arrays, ids, "movies", neighbours=neighbours, max_history=5, candidates=30, users=6)
    for user in pool.users:
        expected = np.zeros((30, len(user.items)))
        for event, item in enumerate(user.items):  # a row of the catalogue, for every movie is in the pool
            if item < 30:  # a movie, no product
                expected[(item + 1) % 30, event] = 0.1 + 0.4 * item / 29
        assert user.affinity == pytest.approx(expected, abs=0.001)


def test_pool_takes_everything_there_is(arrays, ids):
    nothing = no_neighbours(len(arrays.item_ids))
    pool = make_pool(arrays, ids, "products", neighbours=nothing, max_history=5)
    assert len(pool.users) == 4 and len(pool.priors) == 6  # u00, u03, u06 and u09 viewed a product


def test_a_graph_agrees_with_itself(folder, pool):
    graphs = Graphs(folder, "fp32", student_model().outputs)
    agreement = ranking_agreement(graphs, graphs, pool)
    assert set(agreement) == {"movies.rating", "movies.like"}
    assert all(found["top10_overlap"] == 1 and found["kendall_tau"] == 1 for found in agreement.values())


def test_sound_graphs_are_certified_with_every_figure(folder, pool):
    verdict = check(folder, [pool])
    assert verdict.certified and verdict.reasons == ()
    assert verdict.measured["torch_fp32"] < 1e-5
    for profile in ("fast", "exact"):
        figures = verdict.measured[profile]["movies.like"]
        assert figures["candidates"] == 20 and figures["users"] == 6
        assert figures["kendall_tau"] > 0.8


def test_another_model_is_refused_with_the_figure_and_the_limit(folder, pool):
    verdict = check(folder, [pool], model=student_model(seed=1))
    assert not verdict.certified
    assert verdict.reasons[0].startswith("torch and FP32 ONNX differ by ")
    assert "(limit 0.0001); the next step" in verdict.reasons[0]


def test_rankings_below_their_limit_name_task_figure_limit_and_next_step(folder, pool):
    strict = dataclasses.replace(EASY, kendall_tau=1.0)
    reasons = check(folder, [pool], limits=strict).reasons
    assert any(r.startswith("movies.like: kendall_tau of FP32 and INT8 fast is 0.") for r in reasons)
    assert all("(limit 1.000); the next step: " in reason for reason in reasons)


def test_each_task_is_judged_alone(folder):
    before = evaluation(rating=0.8, like=0.2, genre=0.9, tags=0.7)
    after = evaluation(rating=0.8, like=0.25, genre=0.9, tags=0.6)
    verdict = check(folder, [], evaluations={"onnx_fp32": before, "int8_fast": after, "int8_exact": before})
    (reason,) = verdict.reasons
    assert reason.startswith("products.tags: INT8 fast loses 14.29% of the FP32 graph's span_f1 (limit 1.00%)")
    assert verdict.measured["fast"]["movies.like"]["loss"] == pytest.approx(-0.25)
    assert verdict.measured["exact"]["products.tags"]["loss"] == 0


def test_a_text_tasks_loss_counts_where_it_is_no_chance(folder):
    evaluations = {"onnx_fp32": evaluation(genre=0.9), "int8_fast": evaluation(genre=0.8)}
    chance = {"fast": {"movies.genre": {"label_agreement": 0.99, "loss_low": 0.004}}}
    verdict = check(folder, [], evaluations=evaluations, labels=chance)
    assert verdict.certified and verdict.measured["fast"]["movies.genre"]["loss"] > 0.1
    sure = {"fast": {"movies.genre": {"label_agreement": 0.99, "loss_low": 0.02}}}
    (reason,) = check(folder, [], evaluations=evaluations, labels=sure).reasons
    assert reason.startswith("movies.genre: INT8 fast loses 11.11% of the FP32 graph's macro_f1 (limit 1.00%)")


def test_labels_that_change_on_many_texts_are_refused(folder):
    labels = {"exact": {"movies.genre": {"label_agreement": 0.9}}}
    limits = dataclasses.replace(EASY, label_agreement=0.97)
    (reason,) = check(folder, [], labels=labels, limits=limits).reasons
    assert reason.startswith("movies.genre: label_agreement of FP32 and INT8 exact is 0.900 (limit 0.970)")


def test_a_student_that_forgets_a_task_is_refused(folder):
    teacher = evaluation(rating=0.8, like=0.2, genre=0.9)
    student = evaluation(rating=0.85, like=0.2, genre=0.9)
    verdict = check(folder, [], evaluations={"teacher": teacher, "pruned": student})
    (reason,) = verdict.reasons
    assert reason.startswith("movies.rating: the student keeps 75.0% of the teacher's rmse (limit 95.0%)")
    assert verdict.measured["without_retention"] == ["products.tags"]


def test_what_was_not_measured_or_not_learnt_is_not_judged():
    before = evaluation(rating=1.1, genre=0.9)  # rating is worse than chance: nothing to keep
    after = evaluation(rating=1.2, like=0.1, genre=0.9)
    assert retentions(TASKS, {"teacher": before, "pruned": after}, "teacher", "pruned") == {"movies.genre": 1.0}
    assert retentions(TASKS, {"teacher": before}, "teacher", "pruned") == {}
