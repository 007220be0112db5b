from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import tiny_data
from tiny_data import ALL_TASKS, GENRE, LIKE, RATING, tiny_dataset

from mtrec_edge_compress.bootstrap import interval, mean_draws, metric_draws
from mtrec_edge_compress.data.arrays import build_arrays
from mtrec_edge_compress.data.schema import Fold
from mtrec_edge_compress.evaluate import by_history, evaluate, holm, paired_bootstrap, retention
from mtrec_edge_compress.systems_table import item_slices
from mtrec_edge_runtime.errors import InputError

ITEMS = "abcdefgh"  # films a-f are warm, g and h strict cold


def event(user, item, value, fold, timestamp):
    return {"user_id": user, "item_id": item, "value": value, "fold": int(fold), "timestamp": timestamp}


EVENTS = [
    event("u", "a", 5.0, Fold.TRAIN, 1),
    event("u", "b", 2.0, Fold.TRAIN, 2),
    event("u", "c", 3.0, Fold.VALIDATION, 3),
    event("u", "d", 4.0, Fold.TEST, 4),
    event("u", "e", 1.0, Fold.TEST, 5),
    event("u", "g", 5.0, Fold.TEST, 6),
    event("v", "b", 2.0, Fold.TRAIN, 1),
    event("v", "a", 4.0, Fold.TEST, 2),
    event("v", "d", 2.0, Fold.TEST, 3),
]


def world():
    """Two users; u has liked d and the cold g, v has liked a."""
    films = [
        {"item_id": i, "title": i, "cold": i in "gh", "fold": 2 if i in "efgh" else 0, "genre": genre}
        for i, genre in zip(ITEMS, ["drama", "comedy", "drama", None, "drama", "comedy", "comedy", None], strict=True)
    ]
    return build_arrays(tiny_dataset(items=tiny_data.items(*films), events=tiny_data.events(*EVENTS)))


@dataclass
class Fixed:
    """Score each film by a table, whoever asks; remember what histories were shown."""

    like: str = ITEMS  # best first
    rating: float = 3.0
    genre: Any = None
    tag: str = "O"
    seen: list[Any] = field(default_factory=list)

    def pair_scores(self, history, domain):
        self.seen.append(history.items.tolist())
        like = np.array([-float(self.like.index(i)) for i in ITEMS])
        return {"films.like": like, "films.rating": np.full(len(ITEMS), self.rating)}

    def class_logits(self, task, rows):
        return np.array([self.genre[row] for row in rows], float)

    def tags(self, task, rows):
        return [[self.tag] for _ in rows]


def judged(scorer, task, **options):
    return evaluate(scorer, world(), tasks=[task], **options)


def test_items_of_earlier_folds_and_cold_items_are_not_ranked():
    # u: pool d e f, relevant d; v: pool a c d e f, relevant a. Films a, b, c and g, h stand before d for u.
    result = judged(Fixed(like="abcghdef"), "films.like").tasks["films.like"]
    assert result["ndcg@10"] == result["mrr"] == 1.0


def test_the_catalogue_is_ranked_by_the_order_and_labels_are_judged_by_the_score():
    class Apart(Fixed):
        def pair_scores(self, history, domain):
            like = super().pair_scores(history, domain)["films.like"]
            return {"films.like": -like, "films.like.order": like}

    best = Fixed(like="abcghdef")
    apart = judged(Apart(like="abcghdef"), "films.like").tasks["films.like"]
    alone = judged(best, "films.like").tasks["films.like"]
    assert apart["ndcg@10"] == alone["ndcg@10"] == 1.0 and apart["cold_auc"] == alone["cold_auc"]
    assert apart["auc"] == 1.0 - alone["auc"] != 0.5


def test_a_worse_order_gives_the_ranks_worked_out_by_hand():
    result = judged(Fixed(like="fedcbahg"), "films.like")  # u: d is third of f e d; v: a is fifth of f e d c a
    assert result.per_user["films.like"]["mrr"].tolist() == [1 / 3, 1 / 5]
    assert result.tasks["films.like"]["ndcg@10"] == pytest.approx((0.5 + 1 / np.log2(6)) / 2)
    assert result.counts["films.like"]["relevant"] == 2
    assert result.counts["films.like"]["items"] == 6


def test_strict_cold_items_are_ranked_among_themselves():
    best = judged(Fixed(like="abcdefgh"), "films.like")
    worst = judged(Fixed(like="abcdefhg"), "films.like")
    assert best.tasks["films.like"]["cold_auc"] == 1.0
    assert worst.tasks["films.like"]["cold_auc"] == 0.0
    assert best.tasks["films.like"]["cold_ndcg@10"] == 1.0
    assert np.isnan(best.per_user["films.like"]["cold_auc"]).tolist() == [False, True]
    assert best.chance["films.like"]["cold_auc"] == 0.5


def test_explicit_labels_are_judged_without_cold_items():
    result = judged(Fixed(like="adefbcgh"), "films.like")  # positives: d of u, a of v; negatives: e of u, d of v
    assert result.tasks["films.like"]["auc"] == 0.875  # d of u ties with d of v
    assert result.tasks["films.like"]["gauc"] == 1.0
    assert result.counts["films.like"]["events"] == 4
    assert result.per_user["films.like"]["user_auc"].tolist() == [1.0, 1.0]


def test_scores_that_are_no_logits_get_no_log_loss():
    assert {"log_loss", "ece"} <= judged(Fixed(), "films.like").tasks["films.like"].keys()
    assert not {"log_loss", "ece"} & judged(Fixed(), "films.like", calibrated=False).tasks["films.like"].keys()


def test_ratings_are_clipped_to_the_range_and_compared_with_the_training_mean():
    result = judged(Fixed(rating=9.0), "films.rating").tasks["films.rating"]  # becomes 5; warm truth 4 1 4 2
    assert result["rmse"] == pytest.approx(np.sqrt((1 + 16 + 1 + 9) / 4))
    assert result["mae"] == pytest.approx((1 + 4 + 1 + 3) / 4)
    assert result["rmse_constant"] == pytest.approx(np.sqrt((1 + 4 + 1 + 1) / 4))  # mean of 5 2 2 is 3
    assert result["cold_rmse"] == 0.0


def test_the_scorer_sees_the_folds_before_latest_first():
    scorer = Fixed()
    judged(scorer, "films.rating")
    assert scorer.seen == [[2, 1, 0], [1]]
    scorer = Fixed()
    judged(scorer, "films.rating", fold=Fold.VALIDATION)
    assert scorer.seen == [[1, 0]]


def test_genres_are_judged_on_the_folds_items_that_have_one():
    logits = {4: [1, 0], 5: [0, 1], 6: [1, 0]}  # right, right, wrong
    result = evaluate(Fixed(genre=logits), world(), tasks=["films.genre"])
    assert result.tasks["films.genre"]["accuracy"] == pytest.approx(2 / 3)
    assert result.tasks["films.genre"]["macro_f1"] == pytest.approx(2 / 3)
    assert result.per_user["films.genre"]["correct"].tolist() == [1.0, 1.0, 0.0]


def test_tags_are_judged_on_the_folds_texts():
    queries = tiny_data.texts({}, {"text_id": "q2", "text": "red", "tokens": ["red"], "tags": ["B-color"], "fold": 2})
    arrays = build_arrays(tiny_dataset(texts=queries))
    assert evaluate(Fixed(tag="B-color"), arrays, tasks=["queries.tags"]).tasks["queries.tags"]["span_f1"] == 1.0
    assert evaluate(Fixed(tag="O"), arrays, tasks=["queries.tags"]).tasks["queries.tags"]["span_f1"] == 0.0


def test_a_text_without_spans_is_right_alone_and_wrong_where_one_is_found():
    rows = [
        {"text_id": f"q{n}", "text": f"red{n}", "tokens": [f"red{n}"], "tags": [tag], "fold": 2}
        for n, tag in enumerate(["O", "B-color"])
    ]
    arrays = build_arrays(tiny_dataset(texts=tiny_data.texts({}, *rows)))
    for label, alone in (("O", [1.0, 0.0]), ("B-color", [0.0, 1.0])):
        found = evaluate(Fixed(tag=label), arrays, tasks=["queries.tags"])
        assert found.per_user["queries.tags"]["text_f1"].tolist() == alone


def test_a_metric_that_cannot_be_measured_is_absent():
    arrays = build_arrays(tiny_dataset())  # no test events, no test item with a genre, one text without spans
    result = evaluate(Fixed(), arrays)
    assert result.tasks == {task.name: {} for task in ALL_TASKS}


def test_users_are_sampled_by_seed():
    films = [{"item_id": i, "title": i} for i in ITEMS]
    rows = [event(f"u{n:02}", "a", 5.0, Fold.TEST, 1) for n in range(30)]
    arrays = build_arrays(tiny_dataset(items=tiny_data.items(*films), events=tiny_data.events(*rows)))

    def sample(seed):
        return evaluate(Fixed(), arrays, tasks=["films.like"], users_per_domain=5, seed=seed).users["films"].tolist()

    assert sample(1) == sample(1) != sample(2)
    assert len(sample(1)) == 5


def test_values_by_length_of_history():
    result = judged(Fixed(like="fedcbahg"), "films.like")  # u has 3 past events, v has 1
    assert by_history(result, LIKE, "mrr") == {"1-3": pytest.approx((1 / 3 + 1 / 5) / 2)}


def test_a_scorer_that_leaves_a_task_out_is_told_so():
    class Silent(Fixed):
        def pair_scores(self, history, domain):
            return {}

    with pytest.raises(InputError, match=r"task films.like: the scorer returned only nothing; name its tasks"):
        judged(Silent(), "films.like")


def test_scores_of_another_shape_are_refused():
    class Short(Fixed):
        def pair_scores(self, history, domain):
            return {"films.like": np.zeros(3)}

    with pytest.raises(InputError, match=r"task films.like: expected scores of shape \(8,\), got \(3,\)"):
        judged(Short(), "films.like")


def test_an_unknown_task_names_the_known_ones():
    with pytest.raises(InputError, match=r"films.nope unknown; the dataset has films.rating, films.like"):
        judged(Fixed(), "films.nope")


def test_retention_is_the_share_of_the_gain_over_chance():
    assert retention(LIKE, 0.45, 0.5, 0.0) == pytest.approx(0.9)  # NDCG: the plain ratio
    assert retention(LIKE, 0.7, 0.75, 0.5) == pytest.approx(0.8)  # AUC
    assert retention(RATING, 0.9, 0.8, 1.0) == pytest.approx(0.5)  # RMSE: half of the way down from the constant
    assert retention(GENRE, 0.33, 0.3, 0.0) == pytest.approx(1.1)


def test_retention_of_a_reference_without_knowledge_is_undefined():
    assert np.isnan(retention(LIKE, 0.5, 0.5, 0.5))
    assert np.isnan(retention(RATING, 0.9, 1.1, 1.0))


def test_equal_systems_do_not_differ():
    values = np.random.default_rng(0).random(50)
    same = paired_bootstrap(values, values, resamples=500)
    assert (same.mean, same.low, same.high, same.p, same.users) == (0.0, 0.0, 0.0, 1.0, 50)


def test_a_constant_advantage_is_certain_and_nan_users_are_left_out():
    base = np.append(np.random.default_rng(0).random(50), np.nan)
    ahead = paired_bootstrap(base + 0.1, base, resamples=999)
    assert (ahead.mean, ahead.low, ahead.high) == pytest.approx((0.1, 0.1, 0.1))
    assert ahead.p == 2 / 1000
    assert ahead.users == 50


def test_the_interval_of_a_mean_is_the_normal_one_for_many_users():
    values = np.random.default_rng(0).normal(0.3, 1.0, 400)
    found = paired_bootstrap(values, np.zeros(400), seed=1)
    half = 1.96 * values.std() / 20
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)


def test_values_of_different_users_are_not_paired():
    with pytest.raises(InputError, match=r"paired bootstrap: \(3,\) values against \(2,\)"):
        paired_bootstrap(np.zeros(3), np.zeros(2))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_the_interval_of_a_mean_holds_it_and_narrows_with_users():
    values = np.random.default_rng(0).normal(0.3, 0.1, 400)
    low, high = interval(mean_draws(np.append(values, np.nan)))
    assert low < values.mean() < high and high - low == pytest.approx(2 * 1.96 * 0.1 / 20, rel=0.15)
    few = interval(mean_draws(values[:25]))
    assert few[1] - few[0] > 2 * (high - low)
    assert np.isnan(interval(mean_draws([float("nan")]))).all()


def test_two_systems_are_drawn_alike():
    values = np.random.default_rng(0).normal(size=50)
    values[7] = np.nan
    assert mean_draws(values + 1) - mean_draws(values) == pytest.approx(np.ones(1000))
    group = np.repeat(np.arange(10), 5)
    drawn = [metric_draws(lambda rows, own=own: float(np.nanmean(own[rows])), group) for own in (values, values + 1)]
    assert drawn[1] - drawn[0] == pytest.approx(np.ones(1000)) and np.ptp(drawn[0]) > 0


def test_recall_by_kind_of_item_by_hand():
    # TRAIN events: a and b one each (u's), b a second one (v's); of the six warm films the most popular one is the head
    result = judged(Fixed(like="abcghdef"), "films.like")
    per_user = result.per_user["films.like"]
    assert per_user["recall@10 0 events"].tolist() == pytest.approx([1.0, np.nan], nan_ok=True)  # u: d
    assert per_user["recall@10 1-5 events"].tolist() == pytest.approx([np.nan, 1.0], nan_ok=True)  # v likes a
    assert np.isnan(per_user["recall@10 >5 events"]).all() and np.isnan(per_user["recall@10 head"]).all()
    assert per_user["recall@10 tail"].tolist() == [1.0, 1.0]
    slices = item_slices([world().task("films.like")], {"fixed": [result]})
    assert slices["films.like"]["fixed"] == {"0 events": 1.0, "1-5 events": 1.0, "tail": 1.0}
    assert not any(name.startswith("recall@10 ") for name in result.tasks["films.like"])


def test_an_interval_draws_whole_users():
    label = np.array([0.0, 0.0, 1.0, 1.0, 1.0])
    low, high = interval(metric_draws(lambda rows: float(label[rows].mean()), np.array([7, 7, 3, 3, 3])))
    assert (low, high) == (0.0, 1.0)  # either user may be drawn twice
    alone = interval(metric_draws(lambda rows: float(label[rows].mean()), np.zeros(5, np.int64)))
    assert alone == pytest.approx((0.6, 0.6))
    draws = []
    metric_draws(lambda rows: draws.append(sorted(rows.tolist())) or 0.0, np.array([7, 3, 7]), resamples=50)
    assert {tuple(rows) for rows in draws} == {(0, 1, 2), (0, 0, 2, 2), (1, 1)}


def test_a_draw_that_cannot_be_measured_is_left_out():
    nothing = interval(metric_draws(lambda rows: float("nan"), np.arange(4)))
    assert np.isnan(nothing).all() and np.isnan(interval(metric_draws(len, np.zeros(0, np.int64)))).all()
    assert interval(np.array([np.nan, 2.0])) == (2.0, 2.0)


def test_every_metric_has_an_interval_where_it_was_asked_for():
    scorer = Fixed(genre={row: [1.0, 0.0] for row in range(8)}, like="fedcbahg")
    without, found = evaluate(scorer, world()), evaluate(scorer, world(), drawn=True)
    assert without.tasks == found.tasks and not any(without.intervals.values())
    for task, values in found.tasks.items():
        unbounded = {"coverage@10", "popularity_bias", "rmse_constant", "cold_rmse_constant"}
        assert values.keys() - found.intervals[task].keys() <= unbounded
        for metric, (low, high) in found.intervals[task].items():
            assert low - 1e-9 <= values[metric] <= high + 1e-9
