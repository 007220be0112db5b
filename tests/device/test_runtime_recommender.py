"""Right answers on the tiny bundle; make_tiny_bundle.py states the arithmetic."""

import json
import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mtrec_edge_runtime import Event, NewItem, Ranked, Recommender, Tagged
from mtrec_edge_runtime.encoder import BATCH_TEXTS, BATCH_TOKENS, run_batches
from mtrec_edge_runtime.errors import InputError
from mtrec_edge_runtime.neighbours import make_neighbours, no_neighbours

pytestmark = pytest.mark.device

TINY = Path(__file__).parent / "tiny_bundle"
TEXTS = [
    "space",
    "love heart space",
    "red alien ship, magic",
    "Dragon!",
    "space magic " * 7,
    "blue love",
    "ship",
    "x y z",
]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_a_text_lies_on_the_axis_of_its_words(rec: Recommender) -> None:
    vectors = rec.encode(["Space ALIEN", "love", "dragon magic", "blue red"])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, np.eye(4), atol=1e-6)


def test_rating_is_in_units_and_clipped_to_its_range(rec: Recommender) -> None:
    scores = rec.score(["alien"], ["alien", "титаник", "star-wars"], domain="movies", tasks=["movies.rating"])
    assert list(scores) == ["movies.rating"]
    np.testing.assert_allclose(scores["movies.rating"], [5.0, 3.0, 4.6], atol=0.01)
    low = rec.score([Event(text="space", value=-9.0), "hobbit"], ["alien"], domain="movies", tasks=["movies.rating"])
    assert low["movies.rating"] == 0.5


def test_a_line_of_a_ranking_is_traced_back_to_its_candidate(exact: Recommender) -> None:
    candidates = [NewItem("Space"), NewItem("Space", tags=["love"]), "hobbit", NewItem("hobbit", tags=["space"])]
    ranked = exact.rank(["dune"], task="books.like", candidates=candidates)
    assert sorted(line.position for line in ranked) == [0, 1, 2, 3]
    for line in ranked:
        given = candidates[line.position]
        assert line.item == (given if isinstance(given, str) else given.title)
    names = exact.catalogue.ids("movies")
    assert all(names[line.position] == line.item for line in exact.rank(["alien"], task="movies.like"))
    assert all(names[line.position] == line.item for line in exact.similar("alien", domain="movies"))


def test_an_item_that_is_given_twice_is_ranked_once(exact: Recommender) -> None:
    once = exact.rank(["dune"], task="books.like", candidates=["emma", "hobbit"])
    twice = exact.rank(["dune"], task="books.like", candidates=["emma", "emma", "hobbit", "emma"])
    assert [(line.item, line.score) for line in twice] == [(line.item, line.score) for line in once]
    assert [line.position for line in twice] == [0, 2]
    new = exact.rank(["dune"], task="books.like", candidates=[NewItem("love"), NewItem("love")])
    assert [line.position for line in new] == [0, 1]
    assert exact.score(["dune"], ["emma", "emma"], domain="books")["books.like"].shape == (2,)


def test_a_new_item_is_what_it_was_when_it_was_made() -> None:
    tags = ["space"]
    item = NewItem("x", tags=tags)
    tags.append("love")
    assert item.tags == ("space",) and hash(item) == hash(NewItem("x", tags=("space",)))


def test_binary_score_is_a_probability_with_the_prior_of_the_item(rec: Recommender) -> None:
    likes = rec.score(["alien"], domain="movies")["movies.like"]
    expected = [sigmoid(4), sigmoid(3.7), sigmoid(0.25), sigmoid(0), sigmoid(2.9)]  # 0.5: linked to alien
    np.testing.assert_allclose(likes, expected, atol=0.003)


def test_a_catalogue_is_ranked_by_the_tasks_order_where_there_is_one(rec: Recommender) -> None:
    logits = [4.0, 5.0, 0.0]  # dune, emma, hobbit after dune: emma is known, though no nearer than hobbit
    np.testing.assert_allclose(rec.order(["dune"], task="books.like"), logits, atol=0.01)
    ranked = rec.rank(["dune"], task="books.like", exclude_history=False)
    assert [line.item for line in ranked] == ["emma", "dune", "hobbit"]
    odds = np.exp([5.0, 4.0, 0.0])
    np.testing.assert_allclose([line.score for line in ranked], odds / odds.sum(), atol=1e-3)  # shares
    likes = rec.score(["dune"], domain="books")["books.like"]
    np.testing.assert_allclose(likes, [sigmoid(4 / 2), 0.5, 0.5], atol=0.003)  # temperature 2; liked once met


def test_shares_are_of_the_candidates_that_are_left(rec: Recommender) -> None:
    first = rec.rank(["dune"], task="books.like", k=1)
    assert first[0].item == "emma" and first[0].score == pytest.approx(math.exp(5) / (math.exp(5) + 1), abs=1e-3)


def test_the_order_of_a_task_without_one_is_its_raw_score(rec: Recommender) -> None:
    expected = [4, 3.7, 0.25, 0, 2.9]
    np.testing.assert_allclose(rec.order(["alien"], task="movies.like"), expected, atol=0.03)
    np.testing.assert_allclose(rec.order(["alien"], ["alien"], task="movies.rating"), [5.0], atol=0.02)


def test_score_gives_every_pair_task_of_the_domain_and_no_other(rec: Recommender) -> None:
    assert set(rec.score(["alien"], domain="movies")) == {"movies.rating", "movies.like"}
    assert set(rec.score(["dune"], domain="books")) == {"books.like"}


def test_latest_event_is_last_and_counts_most(rec: Recommender) -> None:
    vector = [2 / 3, 1 / 3]  # weights 1 and 0.5
    scores = rec.score(["титаник", "alien"], ["alien", "титаник"], domain="movies", tasks=["movies.rating"])
    np.testing.assert_allclose(scores["movies.rating"], [3 + 2 * vector[0], 3 + 2 * vector[1]], atol=1e-3)


def test_behaviour_and_value_reach_the_ranker_normalised(rec: Recommender) -> None:
    # rate counts twice; value 5 is (5 - 3) / 0.5 = 4, which doubles the weight again: 4 against 0.5 for the older view
    history = [Event("титаник", behaviour="view"), Event("alien", behaviour="rate", value=5.0)]
    scores = rec.score(history, ["alien"], domain="movies", tasks=["movies.rating"])
    assert scores["movies.rating"][0] == pytest.approx(3 + 2 * 4 / 4.5, abs=1e-3)


def test_a_value_counts_by_how_much_more_it_is_than_the_item_usually_gets(rec: Recommender) -> None:
    # passengers usually gets 1 more than others: 5 is 4 - 1 = 3, a weight of 2 * 1.75 against 0.5 for the older view
    history = [Event("титаник", behaviour="view"), Event("passengers", behaviour="rate", value=5.0)]
    scores = rec.score(history, ["alien"], domain="movies", tasks=["movies.rating"])
    assert scores["movies.rating"][0] == pytest.approx(3 + 2 * 0.6 * 3.5 / 4, abs=5e-3)
    unrated = [Event("титаник", behaviour="view"), Event("passengers", behaviour="rate")]  # a weight of 2
    scores = rec.score(unrated, ["alien"], domain="movies", tasks=["movies.rating"])
    assert scores["movies.rating"][0] == pytest.approx(3 + 2 * 0.6 * 2 / 2.5, abs=5e-3)


def test_a_value_is_of_a_behaviour_that_has_values(tmp_path: Path) -> None:
    place = Path(shutil.copytree(TINY, tmp_path / "bundle"))
    table = json.loads((place / "manifest.json").read_text("utf-8"))
    table["input"]["behaviours"][0]["valued"] = False  # view
    (place / "manifest.json").write_text(json.dumps(table), "utf-8")
    rec = Recommender(place)
    with pytest.raises(
        InputError, match=r"event value 5\.0: movies\.view has no values; leave it out, or name another"
    ):
        rec.score([Event("alien", behaviour="view", value=5.0)], domain="movies")
    history = ["титаник", Event("alien", value=5.0)]
    named = ["титаник", Event("alien", behaviour="rate", value=5.0)]
    for task, scores in rec.score(history, domain="movies").items():
        np.testing.assert_array_equal(scores, rec.score(named, domain="movies")[task])


def test_only_the_latest_max_history_events_count(rec: Recommender) -> None:
    long = rec.score(["gone-from-the-catalogue", *["титаник"] * 9, *["alien"] * 4], domain="movies")
    short = rec.score(["alien"] * 4, domain="movies")
    np.testing.assert_array_equal(long["movies.like"], short["movies.like"])


def test_history_may_come_from_another_domain_and_from_texts(rec: Recommender) -> None:
    known = rec.score([Event("dune", domain="books")], domain="movies")["movies.like"]
    text = rec.score([Event(text="space ship")], domain="movies")["movies.like"]
    item = rec.score([Event(text=NewItem("Ship", tags=("space",)))], domain="movies")["movies.like"]
    np.testing.assert_allclose(known, text, atol=1e-4)  # the catalogue's scales are float16
    np.testing.assert_allclose(item, text, atol=1e-6)


def logits(rec: Recommender, history: list[str | Event], items: list[str | NewItem]) -> np.ndarray:
    likes = rec.score(history, items, domain="movies", tasks=["movies.like"])["movies.like"]
    return np.log(likes / (1 - likes))


def test_every_event_adds_what_it_says_of_a_linked_item(rec: Recommender) -> None:
    # hobbit is the latest: u is 1/3 on the axis of space, 2/3 on that of magic
    found = logits(rec, ["alien", "hobbit"], ["passengers", "star-wars", "alien"])
    expected = [4 * 0.6 / 3 + 0.5, 4 * (0.6 * 2 + 0.8) / 3 + 0.5 + 0.25, 4 / 3]
    np.testing.assert_allclose(found, expected, atol=0.02)
    twice = logits(rec, ["alien", "alien"], ["passengers", "star-wars"])
    np.testing.assert_allclose(twice, [4 * 0.6 + 2 * 0.5, 4 * 0.8 + 0.5], atol=0.02)
    np.testing.assert_allclose(logits(rec, ["титаник"], ["hobbit"]), [-0.25], atol=0.01)


def test_links_hold_for_known_items_of_their_own_domain(rec: Recommender) -> None:
    film, book, text = "hobbit", Event("hobbit", domain="books"), Event(text="dragon")
    found = [logits(rec, [event], ["star-wars"])[0] for event in (film, book, text)]
    np.testing.assert_allclose(found, [4 * 0.6 + 0.5 + 0.25, 4 * 0.6 + 0.5, 4 * 0.6 + 0.5], atol=0.02)
    items = [NewItem("Space"), "passengers", NewItem("Love")]
    np.testing.assert_allclose(logits(rec, ["alien"], items), [4, 4 * 0.6 + 0.5, 0], atol=0.02)


def test_an_event_beyond_max_history_says_nothing_of_linked_items(rec: Recommender) -> None:
    near, far = (logits(rec, ["alien", *["титаник"] * n], ["passengers"])[0] for n in (3, 4))
    assert far == pytest.approx(4 * 0.8, abs=0.02)
    assert near == pytest.approx(4 * (0.8 * 14 + 0.6) / 15 + 0.5, abs=0.02)


def test_new_items_are_scored_without_a_prior(rec: Recommender) -> None:
    likes = rec.score(["alien"], ["star-wars", NewItem("Space"), "титаник", NewItem("Love")], domain="movies")[
        "movies.like"
    ]
    np.testing.assert_allclose(likes, [sigmoid(3.7), sigmoid(4), sigmoid(0.25), sigmoid(0)], atol=0.003)


def test_rank_leaves_out_the_history_and_orders_best_first(rec: Recommender) -> None:
    ranked = rec.rank(["alien"], task="movies.like")
    assert [line.item for line in ranked] == ["star-wars", "passengers", "титаник", "hobbit"]
    assert isinstance(ranked[0], Ranked)
    assert [line.score for line in ranked] == sorted((line.score for line in ranked), reverse=True)
    assert [line.item for line in rec.rank(["alien"], task="movies.like", k=1, exclude_history=False)] == ["alien"]


def test_rank_takes_candidates_new_items_and_exclusions(rec: Recommender) -> None:
    items = ["hobbit", "passengers", NewItem("Space love"), "alien"]
    ranked = rec.rank(["alien"], task="movies.like", candidates=items, exclude=["passengers"])
    assert [line.item for line in ranked] == ["Space love", "hobbit"]
    assert rec.rank(["alien"], task="movies.like", candidates=["alien"]) == []


def test_an_item_of_another_domain_with_the_same_id_is_not_excluded(rec: Recommender) -> None:
    ranked = rec.rank([Event("hobbit", domain="books")], task="movies.like", k=1)
    assert ranked[0].item == "hobbit"


def test_ties_keep_the_order_of_the_candidates(rec: Recommender) -> None:
    twins = [NewItem(f"love {letter}") for letter in "dcba"]
    for k in (1, 2, 3, 4, 9):
        ranked = rec.rank(["титаник"], task="movies.rating", candidates=twins, k=k)
        assert [line.item for line in ranked] == [twin.title for twin in twins][:k]


def test_clipped_ratings_are_still_ordered(rec: Recommender) -> None:
    history = [Event(text="love", value=-9.0), "alien"]  # the user vector is longer than 1
    ranked = rec.rank(history, task="movies.rating", candidates=["star-wars", NewItem("Space")], exclude_history=False)
    assert [line.item for line in ranked] == ["Space", "star-wars"]


def test_similar_items_leave_out_the_item_itself(rec: Recommender) -> None:
    found = rec.similar("alien", domain="movies", k=2)
    assert [line.item for line in found] == ["passengers", "star-wars"]
    assert rec.similar(NewItem("Magic"), domain="books", k=1)[0].item == "hobbit"


def similar(rec: Recommender, item: str | NewItem) -> dict[str, float]:
    return {line.item: line.score for line in rec.similar(item, domain="movies")}


def test_similar_adds_the_share_of_the_strongest_link_to_the_cosine(rec: Recommender) -> None:
    scores = similar(rec, "alien")
    assert list(scores)[:2] == ["passengers", "star-wars"]  # by cosine alone it is the other way round
    assert scores["passengers"] == pytest.approx(0.6 + 1.0, abs=0.01)  # the one link that alien has
    assert scores["star-wars"] == pytest.approx(0.8, abs=0.01)
    # титаник speaks against hobbit, and through it against star-wars: nothing speaks for an item
    assert similar(rec, "титаник")["hobbit"] == pytest.approx(0.0, abs=0.01)


def test_similar_follows_links_over_one_item_in_between(tiny: Path) -> None:
    rec = Recommender(tiny, profile="exact")
    start, item = np.array([0, 1, 1, 1, 2, 3, 3, 3, 3]), np.array([4, 0, 3])
    rec.catalogue.neighbours = make_neighbours(start, item, np.array([0.5, 1.0, 0.9]))
    # alien -> passengers 0.5, passengers -> hobbit 0.9, hobbit -> alien 1: hobbit gets 0.5 * 0.9, a share of 0.9
    scores = similar(rec, "alien")
    assert list(scores)[:3] == ["passengers", "hobbit", "star-wars"]
    found = [scores[name] for name in ("passengers", "hobbit", "star-wars", "титаник")]
    np.testing.assert_allclose(found, [0.6 + 1.0, 0.0 + 0.9, 0.8, 0.0], atol=0.01)


def test_similar_is_the_cosine_where_there_are_no_links(tiny: Path, rec: Recommender) -> None:
    found = similar(rec, NewItem("Love"))  # an item that is not in the catalogue
    rows = rec.catalogue.rows("movies", list(found))
    cosines = rec.catalogue.vectors(rows) @ rec.encode(["Love"])[0]
    np.testing.assert_allclose(list(found.values()), cosines, atol=1e-6)
    unlinked = Recommender(tiny, profile="exact")
    unlinked.catalogue.neighbours = no_neighbours(len(unlinked.catalogue))
    scores = similar(unlinked, "alien")
    assert list(scores)[:2] == ["star-wars", "passengers"]
    np.testing.assert_allclose(list(scores.values()), [0.8, 0.6, 0.0, 0.0], atol=0.01)


def test_classify_gives_every_label_most_probable_first(rec: Recommender) -> None:
    labels = rec.classify("love story", task="movies.genre")
    assert list(labels) == ["romance", "scifi", "fantasy"]
    assert labels["romance"] == pytest.approx(math.exp(4) / (math.exp(4) + 2), abs=1e-3)
    assert sum(labels.values()) == pytest.approx(1)
    assert rec.classify(NewItem("Love", description="story"), task="movies.genre") == labels


def test_tag_labels_each_word_by_its_first_piece(rec: Recommender) -> None:
    tagged = rec.tag("red  dragon, shoes \u200b blue", task="queries.entities")
    assert tagged == [
        Tagged("red", "B-colour"),
        Tagged("dragon,", "B-topic"),
        Tagged("shoes", "O"),
        Tagged("\u200b", "O"),
        Tagged("blue", "B-colour"),
    ]


def test_words_beyond_max_tokens_are_outside(rec: Recommender) -> None:
    tagged = rec.tag("red " * 20, task="queries.entities")
    assert [word.label for word in tagged] == ["B-colour"] * 14 + ["O"] * 6


def test_item_texts_are_cut_at_max_tokens(rec: Recommender) -> None:
    np.testing.assert_array_equal(rec.encode(["space " * 14 + "love " * 50]), rec.encode(["space " * 14]))


def test_batch_equals_single_in_the_exact_profile(exact: Recommender) -> None:
    together = exact.encode(TEXTS * 5)
    single = np.concatenate([exact.encode([text]) for text in TEXTS * 5])
    np.testing.assert_allclose(together, single, atol=1e-6, rtol=0)
    items = [*exact.catalogue.ids("movies"), *(NewItem(text) for text in TEXTS)]
    history = ["hobbit", Event(text=TEXTS[2]), Event("alien", behaviour="rate", value=4.5)]
    for task, scores in exact.score(history, items, domain="movies").items():
        alone = [exact.score(history, [item], domain="movies")[task][0] for item in items]
        np.testing.assert_allclose(scores, alone, atol=1e-6, rtol=0)


def test_the_fast_profile_never_sees_padding(tiny) -> None:
    fast = Recommender(tiny)
    texts = ["space love", "red alien ship magic love", "blue dragon heart", "love"]  # every length once
    np.testing.assert_array_equal(fast.encode(texts), np.concatenate([fast.encode([text]) for text in texts]))


def test_profiles_agree_on_the_same_weights(tiny, exact: Recommender) -> None:
    np.testing.assert_allclose(Recommender(tiny).encode(TEXTS), exact.encode(TEXTS), atol=0.02)


@pytest.mark.parametrize("padded", [False, True])
def test_runs_are_bounded_and_cover_every_text_once(padded: bool) -> None:
    lengths = list(np.random.default_rng(0).integers(2, 512, 300))
    batches = list(run_batches(lengths, padded=padded))
    assert sorted(at for batch in batches for at in batch) == list(range(300))
    for batch in batches:
        longest = max(lengths[at] for at in batch)
        assert len(batch) <= BATCH_TEXTS and len(batch) * longest <= BATCH_TOKENS
        assert padded or len({lengths[at] for at in batch}) == 1


def test_more_candidates_than_one_run_takes(rec: Recommender) -> None:
    items = ["alien", "титаник", "passengers"] * 3000
    likes = rec.score(["alien"], items, domain="movies")["movies.like"]
    np.testing.assert_allclose(likes, np.tile(likes[:3], 3000), atol=1e-6)
    mixed = [*items, NewItem("Space")]
    assert rec.rank(["титаник"], task="movies.rating", candidates=mixed, k=9001)[-1].item in {
        "alien",
        "Space",
    }


def test_one_recommender_serves_many_threads(exact: Recommender) -> None:
    def ask(turn: int) -> list[Ranked]:
        return exact.rank(["alien", Event(text=TEXTS[turn % len(TEXTS)])], task="movies.like")

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ask, range(200)))
    assert together[: len(TEXTS)] == [ask(turn) for turn in range(len(TEXTS))]
    assert all(result == together[turn % len(TEXTS)] for turn, result in enumerate(together))


def test_a_user_without_history_gets_what_the_items_are_known_for(rec: Recommender) -> None:
    """By hand: u = 0, so a film's like is its popularity alone, its rating 3; nothing is linked to nobody."""
    scores = rec.score([], ["alien", NewItem("blue")], domain="movies")
    np.testing.assert_allclose(scores["movies.rating"], [3.0, 3.0], atol=1e-6)
    known, new = scores["movies.like"]
    assert known == pytest.approx(sigmoid(float(rec.catalogue.priors(np.array([0]))[0, 0])), abs=1e-6)
    assert new == pytest.approx(0.5, abs=1e-6)
    assert len(rec.rank([], task="movies.like", k=99)) == len(rec.catalogue.ids("movies"))


def test_a_bundle_whose_ranker_never_met_such_a_user_refuses_one(unwelcoming: Path) -> None:
    assert "no_history" not in json.loads((unwelcoming / "manifest.json").read_text())["input"]
    rec = Recommender(unwelcoming)
    for ask in (rec.rank, rec.order):
        with pytest.raises(InputError, match=r"empty history: give at least one .* never met a user without"):
            ask([], task="movies.like")
