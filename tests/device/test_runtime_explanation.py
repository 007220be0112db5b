"""Why an item stands where it does: effects are differences of scores that can be asked for one by one."""

from pathlib import Path

import pytest

from mtrec_edge_runtime import Event, InputError, NewItem, Recommender
from mtrec_edge_runtime.neighbours import no_neighbours

pytestmark = pytest.mark.device

HISTORY = ["титаник", Event("alien", behaviour="rate", value=5.0), Event(text="magic space")]


def order(rec: Recommender, history: list[str | Event], item: str | NewItem, task: str) -> float:
    return float(rec.order(history, [item], task=task)[0])


@pytest.mark.parametrize("task", ["movies.like", "movies.rating"])
@pytest.mark.parametrize("item", ["star-wars", NewItem("Space Alien")])
def test_score_and_the_effect_of_all_events_are_those_of_requests(
    rec: Recommender, task: str, item: str | NewItem
) -> None:
    found = rec.explain(HISTORY, item, task=task)
    assert found.score == pytest.approx(order(rec, HISTORY, item, task), abs=1e-4)
    assert found.history == pytest.approx(found.score - order(rec, [], item, task), abs=1e-4)


@pytest.mark.parametrize("place", range(len(HISTORY)))
def test_the_effect_of_an_event_is_that_of_a_request_without_it(rec: Recommender, place: int) -> None:
    found = rec.explain(HISTORY, "star-wars", task="movies.like")
    left_out = HISTORY[place]
    named = {left_out, getattr(left_out, "item", None) or getattr(left_out, "text", None)}
    reason = next(reason for reason in found.reasons if (reason.event.item or reason.event.text) in named)
    without = order(rec, HISTORY[:place] + HISTORY[place + 1 :], "star-wars", "movies.like")
    assert reason.effect == pytest.approx(found.score - without, abs=1e-4)
    assert reason.event.domain == "movies"


def test_links_cosines_and_priors_are_told_apart(exact: Recommender) -> None:
    linked = exact.explain(["alien"], "passengers", task="movies.like")  # its arithmetic: make_tiny_bundle.py
    assert linked.links == pytest.approx(0.5, abs=1e-3) and linked.priors == 0
    assert linked.reasons[0].link == pytest.approx(0.5, abs=1e-3)
    assert linked.reasons[0].cosine == pytest.approx(0.6, abs=5e-3)
    popular = exact.explain(["alien"], "star-wars", task="movies.like")
    assert popular.priors == pytest.approx(0.5, abs=1e-3) and popular.links == popular.reasons[0].link == 0
    new = exact.explain(["alien"], NewItem("space"), task="movies.like")
    assert new.priors == new.links == 0 < (new.reasons[0].effect or 0.0)


def test_without_links_there_is_nothing_to_leave_out(tiny: Path) -> None:
    recommender = Recommender(tiny, profile="exact")
    with_links = recommender.explain(["alien"], "passengers", task="movies.like")
    recommender.catalogue.neighbours = no_neighbours(len(recommender.catalogue))
    without = recommender.explain(["alien"], "passengers", task="movies.like")
    assert without.links == 0 and without.score == pytest.approx(with_links.score - with_links.links, abs=1e-5)


def test_reasons_are_of_every_event_the_strongest_first(rec: Recommender) -> None:
    found = rec.explain(HISTORY, "passengers", task="movies.like")
    effects = [abs(reason.effect or 0.0) for reason in found.reasons]
    assert effects == sorted(effects, reverse=True) and len(effects) == len(HISTORY)
    assert {reason.event.item or reason.event.text for reason in found.reasons} == {"титаник", "alien", "magic space"}
    assert effects[0] > effects[-1]


def test_a_long_history_is_explained_by_the_events_that_are_looked_at(rec: Recommender) -> None:
    most = rec.manifest.input.max_history
    found = rec.explain(["титаник"] + ["alien"] * most, "star-wars", task="movies.like")
    assert [reason.event.item for reason in found.reasons] == ["alien"] * most


def test_a_first_visit_has_no_events_to_blame(rec: Recommender) -> None:
    found = rec.explain([], "star-wars", task="movies.like")
    assert found.reasons == () and found.history == 0 and found.links == 0


def test_a_bundle_that_knows_no_stranger_does_not_say_what_all_events_do(unwelcoming: Path) -> None:
    found = Recommender(unwelcoming).explain(HISTORY, "star-wars", task="movies.like")
    assert found.history is None and len(found.reasons) == 3
    (only,) = Recommender(unwelcoming).explain(["alien"], "star-wars", task="movies.like").reasons
    assert only.effect is None and only.cosine == pytest.approx(0.8, abs=1e-3)


def test_what_cannot_be_explained_is_said(rec: Recommender) -> None:
    with pytest.raises(InputError, match=r"usable here: movies\.rating"):
        rec.explain(HISTORY, "star-wars", task="queries.tags")
    with pytest.raises(InputError, match="nowhere"):
        rec.explain(HISTORY, "nowhere", task="movies.like")
    with pytest.raises(InputError, match="give a list of item ids"):
        rec.explain("alien", "star-wars", task="movies.like")
