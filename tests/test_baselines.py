"""A checkerboard: even users like even items, odd users odd ones. Who learns that ranks the missing item first."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from mtrec_edge_compress.baselines import fit_baselines
from mtrec_edge_compress.baselines.item_to_item import ease_items, fit_ease, fit_recent_popularity, item_neighbours
from mtrec_edge_compress.baselines.ratings import fit_bias, fit_biased_factors
from mtrec_edge_compress.baselines.signals import Signals
from mtrec_edge_compress.data.arrays import History, build_arrays
from mtrec_edge_compress.data.schema import Dataset, Fold, TaskSpec
from mtrec_edge_compress.evaluate import evaluate
from mtrec_edge_runtime.errors import DataError, InputError
from mtrec_edge_runtime.tasks import Kind

LIKE = TaskSpec("board.like", Kind.BINARY, "events", behaviours=("rate",), positive_at=4.0, negatives=True)
RATING = TaskSpec("board.rating", Kind.REGRESSION, "events", behaviours=("rate",), low=1.0, high=5.0)
COLOUR = TaskSpec("board.colour", Kind.MULTICLASS, "items", column="colour", labels=("red", "blue"))
TAGS = TaskSpec("words.tags", Kind.TOKEN, "texts", column="tags", labels=("O", "B-colour"))
USERS, ITEMS = 24, 16
COLD = (14, 15)


def board():
    """Item i is red when even; user u rates items of the own parity 5, three of the other 1; the last two are cold."""
    events = []
    for user in range(USERS):
        own = [i for i in range(user % 2, ITEMS, 2) if i not in COLD]
        held = own[user // 2 % len(own)], own[(user // 2 + 1) % len(own)]
        folds = {held[0]: Fold.TEST, held[1]: Fold.VALIDATION}
        other = (user + 1) % 2
        rows = [(i, 5.0, folds.get(i, Fold.TRAIN)) for i in own]
        rows += [(other, 1.0, Fold.TRAIN), (other + 2, 1.0, Fold.VALIDATION), (other + 4, 1.0, Fold.TEST)]
        rows += [(COLD[user % 2], 5.0, Fold.TEST)]
        rows.sort(key=lambda row: row[2])
        events += [(f"u{user:02}", f"i{i:02}", "board", "rate", v, t, int(f)) for t, (i, v, f) in enumerate(rows)]
    colours = ["red", "blue"]
    items = pl.DataFrame(
        {
            "item_id": [f"i{i:02}" for i in range(ITEMS)],
            "domain": "board",
            "title": [f"{colours[i % 2]} square" for i in range(ITEMS)],
            "description": "",
            "tags": [[] for _ in range(ITEMS)],
            "fold": [2 if i in COLD else 1 if i in (12, 13) else 0 for i in range(ITEMS)],
            "cold": [i in COLD for i in range(ITEMS)],
            "colour": [colours[i % 2] for i in range(ITEMS)],
        },
        schema_overrides={"tags": pl.List(pl.String)},
    )
    names = ["user_id", "item_id", "domain", "behaviour", "value", "timestamp", "fold"]
    texts = pl.DataFrame(
        {
            "text_id": ["t1", "t2", "t3"],
            "domain": "words",
            "text": ["red mug", "blue mug", "Red cup"],
            "tokens": [["red", "mug"], ["blue", "mug"], ["Red", "cup"]],
            "tags": [["B-colour", "O"], ["B-colour", "O"], ["B-colour", "O"]],
            "fold": [0, 0, 2],
        }
    )
    events = pl.DataFrame(events, schema=names, orient="row")
    return build_arrays(Dataset("board", items, events, texts, (LIKE, RATING, COLOUR, TAGS)))


@pytest.fixture(scope="module")
def arrays():
    return board()


@pytest.fixture(scope="module")
def baselines(arrays):
    return fit_baselines(arrays, domain="board", seed=0, progress=lambda line: None)


def value(arrays, system, task, metric):
    return evaluate(system, arrays, tasks=[task], calibrated=False).tasks[task][metric]


@pytest.mark.parametrize("name", ["item-knn", "ease", "ease-recent", "ials", "bpr", "text-factors", "tf-idf"])
def test_the_missing_square_is_ranked_first(arrays, baselines, name):
    assert value(arrays, baselines[name], "board.like", "ndcg@10") == 1.0


def test_popularity_cannot_tell_the_colours_apart(arrays, baselines):
    assert value(arrays, baselines["popularity"], "board.like", "ndcg@10") < 0.7


def test_only_text_knows_a_cold_item(arrays, baselines):
    assert value(arrays, baselines["tf-idf"], "board.like", "cold_auc") == 1.0
    assert value(arrays, baselines["text-factors"], "board.like", "cold_auc") == 1.0
    for name in ("popularity", "item-knn", "ease", "ease-recent"):
        assert value(arrays, baselines[name], "board.like", "cold_auc") == 0.5


def test_text_knows_which_ratings_differ_from_the_bias(arrays, baselines):
    text = value(arrays, baselines["text-ridge"], "board.rating", "rmse")
    bias = value(arrays, baselines["bias"], "board.rating", "rmse")
    assert text < 0.5 * bias


def test_a_like_is_told_by_the_rating_that_texts_predict(arrays, baselines):
    assert value(arrays, baselines["text-ridge"], "board.like", "gauc") == 1.0
    likes = Signals(arrays, LIKE)
    assert baselines["text-ridge"].pairs["board.like"].bias.mean > likes.labelled[2].max()  # of ratings, not of likes


def test_factors_know_which_ratings_differ_from_the_bias(arrays, baselines):
    factors = value(arrays, baselines["biased-mf"], "board.rating", "rmse")
    assert factors < 0.95 * value(arrays, baselines["bias"], "board.rating", "rmse")


def test_a_user_without_history_gets_the_bias_from_factors(arrays):
    bias = fit_bias(Signals(arrays, RATING), item_shrink=1.0, user_shrink=1.0)
    nobody = History(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    assert fit_biased_factors(bias, penalty=1.0, seed=0).scores(nobody) == pytest.approx(bias.scores(nobody))


def test_recent_popularity_by_hand(arrays):
    signals = Signals(arrays, LIKE)
    _, item, label = signals.labelled
    latest, first = signals.times.max(), signals.times.min()
    expected = np.zeros(ITEMS)
    for i, liked, time in zip(item, label, signals.times, strict=True):
        expected[i] += liked * 0.5 ** (2 * (latest - time) / (latest - first))
    nobody = arrays.history(0, Fold.TRAIN)
    assert fit_recent_popularity(signals, half_life=0.5).scores(nobody) == pytest.approx(np.log1p(expected))
    late = replace(arrays, event_time=arrays.event_time + 1_500_000_000)  # seconds since 1970, as logs have them
    assert fit_recent_popularity(Signals(late, LIKE), half_life=0.5).scores(nobody) == pytest.approx(np.log1p(expected))
    timeless = replace(arrays, event_time=np.zeros_like(arrays.event_time))
    assert fit_recent_popularity(Signals(timeless, LIKE), half_life=0.5) is None


def test_words_tell_the_class(arrays, baselines):
    assert value(arrays, baselines["tf-idf"], "board.colour", "accuracy") == 1.0


def test_a_word_gets_its_usual_tag(arrays):
    system = fit_baselines(arrays, domain="words", seed=0, progress=lambda line: None)["usual-tag"]
    assert system.tags("words.tags", np.array([2])) == [["B-colour", "B-colour"]]  # cup is new: like rare words


def test_a_baseline_names_its_tasks_and_settings(baselines):
    together = {"item-knn", "ease", "ease-recent", "ials", "bpr", "text-factors"}
    amounts = {"bias", "biased-mf", "text-ridge"}
    assert baselines.keys() == together | amounts | {"popularity", "popularity-recent", "tf-idf"}
    assert set(baselines["tf-idf"].tasks) == {"board.like", "board.colour"}
    assert set(baselines["text-ridge"].tasks) == {"board.like", "board.rating"}
    assert baselines["ease"].tasks == ("board.like",)
    assert baselines["ease"].settings["board.like"].endswith("on 14 of 16 items")


def test_a_user_without_history_gets_the_popular_order(arrays, baselines):
    nobody = History(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    popularity = baselines["popularity"].pair_scores(nobody, "board")["board.like"]
    for name in ("item-knn", "ease", "ease-recent", "ials", "bpr", "tf-idf"):
        scores = baselines[name].pair_scores(nobody, "board")["board.like"]
        assert (np.argsort(-scores, kind="stable") == np.argsort(-popularity, kind="stable")).all()


def test_a_late_like_counts_more_for_ease_recent(arrays, baselines):
    def scores(name, *items):  # latest first
        history = History(np.array(items), np.zeros(len(items), np.int64), np.full(len(items), 5.0, np.float32))
        return baselines[name].pair_scores(history, "board")["board.like"]

    alone = {item: scores("ease", item) for item in (0, 1)}
    tie_break = Signals(arrays, LIKE).tie_break
    expected = tie_break + (0.3 + 1.0) * (alone[0] - tie_break) + (0.3 + 0.5**0.1) * (alone[1] - tie_break)
    assert scores("ease-recent", 0, 1) == pytest.approx(expected, abs=1e-6)
    assert scores("ease", 0, 1) == pytest.approx(scores("ease", 1, 0), abs=1e-6)


def test_a_repeated_like_has_the_age_of_its_latest():
    history = History(np.array([3, 5, 3]), np.zeros(3, np.int64), np.full(3, 5.0, np.float32))
    signals = Signals(board(), LIKE)
    assert signals.age(history).tolist() == [0, 1]


def test_ease_equals_its_closed_form(arrays):
    signals = Signals(arrays, LIKE)
    kept = ease_items(signals.popularity)
    x = signals.positives.toarray()[:, kept].astype(np.float64)
    inverse = np.linalg.inv(x.T @ x + 3.0 * np.eye(len(kept)))
    expected = np.eye(len(kept)) - inverse / np.diag(inverse)
    assert fit_ease(signals, penalty=3.0).weights == pytest.approx(expected, abs=1e-5)


def test_neighbours_are_the_nearest_and_never_the_item_itself(arrays):
    signals = Signals(arrays, LIKE)
    x = signals.positives.toarray().astype(np.float64)
    shared, count = x.T @ x, x.sum(axis=0)
    bottom = np.sqrt(np.outer(count, count)) + 2.0
    expected = shared / bottom
    np.fill_diagonal(expected, 0.0)
    weights = item_neighbours(signals, most=16, shrink=2.0).nearest(16).weights.toarray()
    assert weights == pytest.approx(expected, abs=1e-6)
    two = item_neighbours(signals, most=16, shrink=2.0).nearest(2).weights.toarray()
    assert ((two > 0).sum(axis=0) <= 2).all()
    assert two.max(axis=0) == pytest.approx(expected.max(axis=0), abs=1e-6)


def test_bias_reads_the_user_from_the_history(arrays):
    bias = fit_bias(Signals(arrays, RATING), item_shrink=1.0, user_shrink=1.0)
    generous = History(np.array([0, 1]), np.array([0, 0]), np.array([5.0, 5.0], np.float32))
    severe = History(np.array([0, 1]), np.array([0, 0]), np.array([1.0, 1.0], np.float32))
    assert bias.scores(generous) - bias.scores(severe) == pytest.approx(np.full(ITEMS, 8 / 3))


def test_training_reads_no_event_of_a_later_fold(arrays):
    user, item, _ = Signals(arrays, LIKE).labelled
    train = arrays.event_fold == Fold.TRAIN
    assert len(user) == train.sum()
    assert not np.isin(item, COLD).any()


def test_a_domain_without_tasks_is_refused(arrays):
    with pytest.raises(DataError, match="baselines for 'music': the dataset has no task there; it has board, words"):
        fit_baselines(arrays, domain="music", seed=0, progress=print)


def test_a_baseline_of_another_domain_is_refused(arrays, baselines):
    with pytest.raises(InputError, match="baseline ease was fitted on board, not words"):
        baselines["ease"].pair_scores(arrays.history(0, Fold.TEST), "words")
