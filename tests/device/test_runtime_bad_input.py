"""Whatever an app passes wrongly is one InputError that says what was asked, what was found and what to do."""

import math

import numpy as np
import pytest

from mtrec_edge_runtime import Event, InputError, NewItem, Recommender
from mtrec_edge_runtime.encoder import MAX_TEXT_CHARACTERS

pytestmark = pytest.mark.device

LONG = "a" * (MAX_TEXT_CHARACTERS + 1)

CASES = {
    "unknown item in the history": (
        lambda r: r.score(["alien", "nope"], domain="movies"),
        r"unknown item 'nope' in domain 'movies' \(5 items\); use an id of the catalogue .* in a history Event\(text=",
    ),
    "unknown candidate": (lambda r: r.score(["alien"], ["alien", "nope"], domain="movies"), "unknown item 'nope'"),
    "candidate of another domain": (lambda r: r.score(["alien"], ["dune"], domain="movies"), "unknown item 'dune'"),
    "candidate that is no id": (lambda r: r.score(["alien"], [["alien"]], domain="movies"), "unknown item"),
    "candidate that is a number": (lambda r: r.score(["alien"], [7, NewItem("x")], domain="movies"), "unknown item 7"),
    "unknown exclusion": (lambda r: r.rank(["alien"], task="movies.like", exclude=["nope"]), "unknown item 'nope'"),
    "exclusion that is one string": (lambda r: r.rank(["alien"], task="movies.like", exclude="alien"), "give a list"),
    "unknown domain": (
        lambda r: r.score(["alien"], domain="songs"),
        "unknown domain 'songs'; this bundle holds books, movies",
    ),
    "unknown domain of an event": (lambda r: r.score([Event("x", domain="songs")], domain="movies"), "'songs'"),
    "domain that is a list": (lambda r: r.score(["alien"], domain=["movies"]), r"unknown domain \['movies'\]"),
    "domain of an event that is a list": (
        lambda r: Event("alien", domain=["movies"]),
        "domain and behaviour are names",
    ),
    "behaviour that is a list": (lambda r: Event("alien", behaviour=["view"]), "domain and behaviour are names"),
    "tasks that are a number": (lambda r: r.score(["alien"], domain="movies", tasks=5), "tasks=5: give a list"),
    "tags that are None": (lambda r: NewItem("x", tags=None), "tags a list of texts"),
    "a path that is None": (lambda r: Recommender(None), "bundle path None: give the folder"),
    "unknown domain of similar": (lambda r: r.similar("alien", domain="songs"), "unknown domain"),
    "unknown task": (
        lambda r: r.rank(["alien"], task="movies.buy"),
        "task 'movies.buy' is not in this bundle; usable here: movies.rating, movies.like, books.like",
    ),
    "task of another kind": (lambda r: r.rank(["alien"], task="movies.genre"), "is a multiclass task"),
    "classify with a pair task": (lambda r: r.classify("x", task="movies.like"), "usable here: movies.genre"),
    "tag with a class task": (lambda r: r.tag("x", task="movies.genre"), "usable here: queries.entities"),
    "task of another domain": (
        lambda r: r.score(["alien"], domain="movies", tasks=["books.like"]),
        "does not belong to domain 'movies'; pass domain='books'",
    ),
    "no tasks": (lambda r: r.score(["alien"], domain="movies", tasks=[]), "no task"),
    "history that is one string": (lambda r: r.rank("alien", task="movies.like"), "give a list of item ids"),
    "history of a new item": (lambda r: r.rank([NewItem("x")], task="movies.like"), r"is Event\(text=\.\.\.\)"),
    "history of numbers": (lambda r: r.rank([603], task="movies.like"), "history entry 603 is int"),
    "history that is None": (lambda r: r.rank(None, task="movies.like"), "give a list of item ids"),
    "empty candidates": (lambda r: r.score(["alien"], [], domain="movies"), "at least one item id or NewItem"),
    "candidates that are one string": (lambda r: r.score(["alien"], "alien", domain="movies"), "give a list"),
    "unknown behaviour": (
        lambda r: r.score([Event("alien", behaviour="buy")], domain="movies"),
        "unknown behaviour 'buy' of domain 'movies'; the bundle knows movies.view, movies.rate, books.read",
    ),
    "NaN value": (lambda r: Event("alien", value=math.nan), "nan is not a finite number"),
    "infinite value": (lambda r: Event("alien", value=math.inf), "inf is not a finite number"),
    "value beyond the ranker's range": (
        lambda r: Event("alien", value=1e300),
        r"1e\+300 is not a finite number within",
    ),
    "infinite value of numpy": (lambda r: Event("alien", value=np.float16(math.inf)), "inf.* is not a finite number"),
    "value that is a list": (lambda r: Event("alien", value=[5]), r"event value \[5\] is not a finite number"),
    "value that is text": (lambda r: Event("alien", value="5"), "'5' is not a finite number"),
    "event of nothing": (lambda r: Event(behaviour="rate"), "exactly one of item="),
    "item that is a list": (lambda r: r.rank([Event(["alien"])], task="movies.rating"), "item is an id"),
    "event whose text is a number": (lambda r: Event(text=0), "text a text or a NewItem"),
    "event of two things": (lambda r: Event("alien", "text"), "exactly one of item="),
    "over-long text": (lambda r: r.encode([LONG]), "text of 20001 characters: at most 20000 are taken"),
    "over-long text to classify": (lambda r: r.classify(LONG, task="movies.genre"), "at most 20000"),
    "over-long text to tag": (lambda r: r.tag(LONG, task="queries.entities"), "at most 20000"),
    "over-long new item": (lambda r: r.similar(NewItem("t", LONG), domain="movies"), "at most 20000"),
    "over-long event": (lambda r: r.score([Event(text=LONG)], domain="movies"), "at most 20000"),
    "blank text": (lambda r: r.encode([" \n"]), "empty text"),
    "blank text to tag": (lambda r: r.tag("  ", task="queries.entities"), "empty text"),
    "invisible text": (lambda r: r.encode(["\u200b"]), "nothing in it can be read"),
    "invisible text to classify": (lambda r: r.classify("\x00\x01", task="movies.genre"), "nothing in it can be read"),
    "invisible new item": (lambda r: r.score(["alien"], [NewItem("\ufeff")], domain="movies"), "nothing in it can be"),
    "text to tag that is None": (lambda r: r.tag(None, task="queries.entities"), "a text was expected, got NoneType"),
    "new item without a title": (lambda r: NewItem(None), "title and description are texts"),
    "new item of numbers": (lambda r: NewItem("x", tags=[7]), "tags a list of texts"),
    "tags that are one string": (lambda r: NewItem("x", tags="space"), "tags a list of texts"),
    "blank new item": (lambda r: r.score(["alien"], [NewItem("")], domain="movies"), "empty text"),
    "no texts": (lambda r: r.encode([]), "at least one text"),
    "texts that are None": (lambda r: r.encode(None), "give a list of at least one text"),
    "texts that are no list": (lambda r: r.encode(text for text in ["space"]), "give a list of at least one text"),
    "tasks for a task": (lambda r: r.rank(["alien"], task=["movies.like"]), r"task \['movies.like'\] is not in"),
    "exclusion that is None": (
        lambda r: r.rank(["alien"], task="movies.like", exclude=None),
        "give a list of item ids",
    ),
    "one string for a list of texts": (lambda r: r.encode("space"), "give a list of at least one text"),
    "text that is a number": (lambda r: r.encode([7]), "a text was expected, got int"),
    "lone surrogate": (lambda r: r.encode(["space \ud83d ship"]), r"lone surrogate U\+D83D"),
    "k of zero": (lambda r: r.rank(["alien"], task="movies.like", k=0), "k=0: give a whole number of at least 1"),
    "k that is not whole": (lambda r: r.similar("alien", domain="movies", k=2.5), "k=2.5"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_clear_error(exact: Recommender, case: str) -> None:
    call, message = CASES[case]
    with pytest.raises(InputError, match=message):
        call(exact)


@pytest.mark.parametrize("threads", [0, -1, True, 1.5, 2**31])
def test_threads_must_be_a_positive_whole_number(tiny, threads) -> None:
    with pytest.raises(InputError, match="threads="):
        Recommender(tiny, threads=threads)


def test_an_unknown_profile_names_the_known_ones(tiny) -> None:
    with pytest.raises(InputError, match=r"'turbo'.*holds exact, fast"):
        Recommender(tiny, profile="turbo")


def test_the_longest_text_allowed_is_taken(exact: Recommender) -> None:
    assert exact.encode(["a" * MAX_TEXT_CHARACTERS]).shape == (1, 4)


def test_numbers_may_come_from_numpy(exact: Recommender) -> None:
    assert len(exact.rank(["alien"], task="movies.like", k=np.int64(2))) == 2
    history = [Event("alien", value=np.float16(4.5))]
    assert exact.score(history, domain="movies")["movies.rating"].shape == (5,)
