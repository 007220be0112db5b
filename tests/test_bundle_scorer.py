"""The hand-made bundle of tests/device: movies.like = 4 u.v + popularity, a genre is the greatest axis of a text."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mtrec_edge_compress.bundle_scorer import BundleScorer
from mtrec_edge_compress.data.arrays import History, build_arrays
from mtrec_edge_compress.data.schema import Dataset, Fold, TaskSpec
from mtrec_edge_runtime.errors import InputError
from mtrec_edge_runtime.history import Event
from mtrec_edge_runtime.manifest import read_manifest, write_manifest
from mtrec_edge_runtime.recommender import Recommender
from mtrec_edge_runtime.tasks import Kind

BUNDLE = Path(__file__).parent / "device" / "tiny_bundle"
SPLIT = json.loads((BUNDLE / "manifest.json").read_text(encoding="utf-8"))["data"].get("split_hash", "")
LIKE = TaskSpec("movies.like", Kind.BINARY, "events", behaviours=("rate",), positive_at=4.0, negatives=True)
RATING = TaskSpec("movies.rating", Kind.REGRESSION, "events", behaviours=("rate",), low=0.5, high=5.0)
GENRE = TaskSpec("movies.genre", Kind.MULTICLASS, "items", column="genre", labels=("scifi", "romance", "fantasy"))
ENTITIES = TaskSpec("queries.entities", Kind.TOKEN, "texts", column="tags", labels=("O", "B-topic", "B-colour"))
MOVIES = {
    "alien": "space alien",
    "star-wars": "space ship",
    "титаник": "love ship",
    "hobbit": "dragon",
    "passengers": "",
}


def arrays(split_hash=SPLIT, movies=MOVIES):
    items = pl.DataFrame(
        {
            "item_id": list(movies),
            "domain": "movies",
            "title": list(movies.values()),
            "description": "",
            "tags": [[] for _ in movies],
            "fold": 2,
            "cold": False,
            "genre": ["scifi", "scifi", "romance", "fantasy", "romance"],
        },
        schema_overrides={"tags": pl.List(pl.String)},
    )
    rows = [("u", "alien", 5.0, 0), ("u", "star-wars", 4.0, 2), ("u", "титаник", 1.0, 2), ("v", "hobbit", 4.0, 0)]
    events = pl.DataFrame(
        [(user, item, "movies", "rate", value, time, fold) for time, (user, item, value, fold) in enumerate(rows)],
        schema=["user_id", "item_id", "domain", "behaviour", "value", "timestamp", "fold"],
        orient="row",
    )
    texts = pl.DataFrame(
        {
            "text_id": ["q"],
            "domain": "queries",
            "text": ["red shoes"],
            "tokens": [["red", "shoes"]],
            "tags": [["B-colour", "O"]],
            "fold": [2],
        }
    )
    return build_arrays(Dataset("tiny", items, events, texts, (RATING, LIKE, GENRE, ENTITIES), split_hash=split_hash))


@pytest.fixture(scope="module")
def scorer():
    return BundleScorer(BUNDLE, arrays(), profile="exact")


def test_pair_scores_are_the_runtimes_with_probabilities_as_logits(scorer):
    found = scorer.pair_scores(scorer.arrays.history(0, Fold.TEST), "movies")
    events = [Event(item="alien", domain="movies", behaviour="rate", value=5.0)]
    expected = Recommender(BUNDLE, profile="exact").score(events, domain="movies")
    assert found["movies.rating"] == pytest.approx(expected["movies.rating"])
    assert 1 / (1 + np.exp(-found["movies.like"])) == pytest.approx(expected["movies.like"])
    assert found["movies.like.order"] == pytest.approx(found["movies.like"], abs=1e-5)  # this task has no order apart


NOBODY = History(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))


def test_a_user_without_history_gets_what_the_runtime_says(scorer):
    scores = scorer.pair_scores(NOBODY, "movies")["movies.like"]
    expected = Recommender(BUNDLE, profile="exact").score([], domain="movies")["movies.like"]
    assert 1 / (1 + np.exp(-scores)) == pytest.approx(expected)


def test_of_a_bundle_that_knows_no_such_user_the_order_of_the_priors(tmp_path):
    bundle = Path(shutil.copytree(BUNDLE, tmp_path / "bundle"))
    manifest = read_manifest(bundle)
    write_manifest(bundle, replace(manifest, input=replace(manifest.input, no_history=False)))
    scorer = BundleScorer(bundle, arrays(), profile="exact")
    assert scorer.pair_scores(NOBODY, "movies")["movies.like"] == pytest.approx(scorer.arrays.priors[:, 0])


def test_a_genre_is_read_from_the_text_and_a_blank_text_has_none(scorer):
    logits = scorer.class_logits("movies.genre", np.arange(5))
    assert logits[:4].argmax(axis=1).tolist()[3] == 2
    assert np.exp(logits[0]).sum() == pytest.approx(1.0)
    assert logits[4].tolist() == [0.0, 0.0, 0.0]


def test_words_are_tagged(scorer):
    assert scorer.tags("queries.entities", np.array([0])) == [["B-colour", "O"]]


def test_a_bundle_of_another_split_is_refused():
    with pytest.raises(InputError, match=r"the dataset has split other: its test events may have been trained on"):
        BundleScorer(BUNDLE, arrays(split_hash="other"))


def test_a_bundle_of_another_catalogue_is_refused():
    renamed = {("aliens" if name == "alien" else name): text for name, text in MOVIES.items()}
    with pytest.raises(InputError, match=r"its catalogue of movies is not the dataset's"):
        BundleScorer(BUNDLE, arrays(movies=renamed))
