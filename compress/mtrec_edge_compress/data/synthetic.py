"""A synthetic world whose truth is known: topics make texts, histories, clicks, ratings, categories and query tags.

Domains `shop` and `video` share users and items, `music` shares nothing with them, `queries` has texts without users.
Used by the quickstart and by tests that show a model beating chance and approaching the best there is.
"""

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.special import log_ndtr, ndtr

from mtrec_edge_compress.data.balance import IntArray
from mtrec_edge_compress.data.invented_texts import (
    COMMON_WORDS,
    QUERY_WORDS,
    TAG_LABELS,
    WORDS_PER_TOPIC,
    Query,
    invent_words,
    write_item_texts,
    write_queries,
)
from mtrec_edge_compress.data.schema import EVENT_COLUMNS, ITEM_COLUMNS, TEXT_COLUMNS, Dataset, TaskSpec
from mtrec_edge_compress.data.split import split
from mtrec_edge_compress.data.tables import conform
from mtrec_edge_runtime.tasks import Kind

FloatArray = npt.NDArray[np.float64]

TOPICS = 8
LABEL_NOISE = 0.05  # share of categories and genres drawn at random
RATING_NOISE = 0.6  # deviation of a rating from its mean, before it is rounded
LIKE_FROM = 4.0
SHOP_EVENTS, VIDEO_EVENTS, MUSIC_EVENTS = 22, 14, 20  # a user
START = 1_700_000_000  # seconds: the first event's time
SPAN = 30 * 24 * 3600  # seconds in which a user's events of every domain lie, interleaved


@dataclass(frozen=True)
class Truth:
    """What made the events and labels: the scores nothing can beat, but by luck."""

    users: dict[str, tuple[str, ...]]  # domain -> user ids
    items: dict[str, tuple[str, ...]]  # domain -> item ids
    pairs: dict[str, FloatArray]  # regression and binary task -> (users, items): expected value, or logit
    classes: dict[str, tuple[str, ...]]  # multiclass task -> each item's label before noise
    tags: dict[str, tuple[str, ...]]  # text id -> labels


@dataclass(frozen=True)
class _People:
    """Users and items of domains that share them, and how well each user and item fit, standardised."""

    users: tuple[str, ...]
    items: tuple[str, ...]
    mixtures: FloatArray  # (items, topics)
    fit: FloatArray  # (users, items)
    popularity: FloatArray  # (items,) standard normal
    words: tuple[str, ...]  # common words, then those of each topic

    @property
    def topics(self) -> IntArray:
        """Return each item's main topic, (items,)."""
        topics: IntArray = self.mixtures.argmax(axis=1)
        return topics


@dataclass(frozen=True)
class _World:
    """Everything imagined before anything is written down."""

    public: _People  # shop and video
    musical: _People
    click: FloatArray  # (users, items) logit of the choice
    listen: FloatArray
    rating: FloatArray  # (users, items) mean before rounding
    queries: tuple[Query, ...]


def make_world(seed: int = 0, *, users: int = 400, items: int = 300, queries: int = 600) -> tuple[Dataset, Truth]:
    """Return a split dataset of about 30 events a user, and its truth; `items` counts those of one domain.

    shop.click and music.listen: items are drawn by fit and popularity. video.rating: a rounded mean of fit, the item's
    quality and the user's mood, with noise; video.like is rating >= 4. shop.category and music.genre: the main topic.
    """
    rng = np.random.default_rng(seed)
    world = _imagine(rng, users, items, queries)
    dataset = Dataset(
        name="synthetic",
        items=_item_table(rng, world),
        events=_event_table(rng, world),
        texts=_text_table(world),
        tasks=_tasks(),
        licence="invented",
        notes=(f"a synthetic world, seed {seed}",),
    )
    return split(dataset, seed), _truth(world)


def _imagine(rng: np.random.Generator, users: int, items: int, queries: int) -> _World:
    words = np.array(invent_words(rng, 2 * (COMMON_WORDS + TOPICS * WORDS_PER_TOPIC) + QUERY_WORDS))
    first, second, lexicon = np.split(words, [len(words) // 2 - QUERY_WORDS // 2, len(words) - QUERY_WORDS])
    shared = users * 5 // 8
    public = _people(rng, [f"user{n}" for n in range(shared)], [f"item{n}" for n in range(items)], first.tolist())
    names = [f"listener{n}" for n in range(users - shared)]
    musical = _people(rng, names, [f"track{n}" for n in range(items)], second.tolist())
    quality, mood = rng.standard_normal(items), rng.standard_normal((shared, 1))
    return _World(
        public=public,
        musical=musical,
        click=2.0 * public.fit + 0.7 * public.popularity,
        listen=2.0 * musical.fit + 0.7 * musical.popularity,
        rating=3.0 + 0.8 * public.fit + 0.5 * quality + 0.3 * mood,
        queries=tuple(write_queries(rng, queries, lexicon.tolist())),
    )


def _people(rng: np.random.Generator, users: list[str], items: list[str], words: list[str]) -> _People:
    """Imagine tastes over few topics, and items that are mostly of one topic."""
    tastes = rng.dirichlet([0.25] * TOPICS, len(users))
    mixtures = 0.2 * rng.dirichlet([1.0] * TOPICS, len(items))
    mixtures[np.arange(len(items)), rng.integers(0, TOPICS, len(items))] += 0.8
    fit = tastes @ mixtures.T
    fit = (fit - fit.mean()) / fit.std()
    return _People(tuple(users), tuple(items), mixtures, fit, rng.standard_normal(len(items)), tuple(words))


def _item_table(rng: np.random.Generator, world: _World) -> pl.DataFrame:
    """Write each item of each domain: its own text, and a label with noise where the domain has one."""
    rows = []
    for domain, people, column in (
        ("shop", world.public, "category"),
        ("video", world.public, ""),
        ("music", world.musical, "genre"),
    ):
        texts = write_item_texts(rng, people.mixtures, people.words)
        noisy = np.where(rng.random(len(texts)) < LABEL_NOISE, rng.integers(0, TOPICS, len(texts)), people.topics)
        for item, text, label in zip(people.items, texts, noisy, strict=True):
            labels = {name: f"{name}{label}" if name == column else None for name in ("category", "genre")}
            rows.append({"item_id": item, "domain": domain, **asdict(text), **labels})
    return conform(pl.DataFrame(rows, infer_schema_length=None), ITEM_COLUMNS, labels=["category", "genre"])


def _event_table(rng: np.random.Generator, world: _World) -> pl.DataFrame:
    """Let each user choose items without repetition, the likelier the earlier, and rate what they watched."""
    frames = [
        _choices(rng, world.public, world.click, SHOP_EVENTS, ("shop", "click")),
        _choices(rng, world.public, 0.8 * world.rating, VIDEO_EVENTS, ("video", "rate"), ratings=world.rating),
        _choices(rng, world.musical, world.listen, MUSIC_EVENTS, ("music", "listen")),
    ]
    return conform(pl.concat(frames), EVENT_COLUMNS)


def _choices(
    rng: np.random.Generator,
    people: _People,
    logits: FloatArray,
    count: int,
    name: tuple[str, str],
    ratings: FloatArray | None = None,
) -> pl.DataFrame:
    """Draw `count` items a user by softmax(logits) without replacement (Gumbel top-k), at times all over the span."""
    order = np.argsort(-(logits + rng.gumbel(size=logits.shape)), axis=1)[:, :count]
    users = np.repeat(np.arange(len(people.users)), order.shape[1])
    items = order.ravel()
    values = None
    if ratings is not None:
        noisy = ratings[users, items] + RATING_NOISE * rng.standard_normal(len(items))
        values = np.clip(np.floor(noisy + 0.5), 1, 5).tolist()
    times = START + np.sort(rng.integers(0, SPAN, order.shape), axis=1)
    return pl.DataFrame(
        {
            "user_id": np.array(people.users)[users],
            "item_id": np.array(people.items)[items],
            "domain": name[0],
            "behaviour": name[1],
            "value": pl.Series(values, dtype=pl.Float32)
            if values
            else pl.Series([None] * len(items), dtype=pl.Float32),
            "timestamp": times.ravel(),
        }
    )


def _text_table(world: _World) -> pl.DataFrame:
    rows = [
        {
            "text_id": f"query{number}",
            "domain": "queries",
            "text": " ".join(query.tokens),
            "tokens": list(query.tokens),
            "tags": list(query.tags),
        }
        for number, query in enumerate(world.queries)
    ]
    return conform(pl.DataFrame(rows), TEXT_COLUMNS, labels=["tags"])


def _tasks() -> tuple[TaskSpec, ...]:
    categories, genres = ([f"{name}{n}" for n in range(TOPICS)] for name in ("category", "genre"))
    return (
        TaskSpec("shop.click", Kind.BINARY, "events", behaviours=("click",), negatives=True),
        TaskSpec("shop.category", Kind.MULTICLASS, "items", column="category", labels=tuple(categories)),
        TaskSpec("video.rating", Kind.REGRESSION, "events", behaviours=("rate",), low=1.0, high=5.0),
        TaskSpec(  # judged by AUC: even the truth ranks likes with an NDCG@10 of 0.15
            "video.like",
            Kind.BINARY,
            "events",
            behaviours=("rate",),
            positive_at=LIKE_FROM,
            negatives=True,
            metric="auc",
        ),
        TaskSpec("music.listen", Kind.BINARY, "events", behaviours=("listen",), negatives=True),
        TaskSpec("music.genre", Kind.MULTICLASS, "items", column="genre", labels=tuple(genres)),
        TaskSpec("queries.tags", Kind.TOKEN, "texts", column="tags", labels=TAG_LABELS),
    )


def _truth(world: _World) -> Truth:
    """Return the generating scores: a choice's logit, a rating's expected value, the log odds of a like."""
    over = [(world.rating - (step + 0.5)) / RATING_NOISE for step in range(1, 5)]  # rating > step, deviations away
    like = over[int(LIKE_FROM) - 2]
    return Truth(
        users={"shop": world.public.users, "video": world.public.users, "music": world.musical.users},
        items={"shop": world.public.items, "video": world.public.items, "music": world.musical.items},
        pairs={
            "shop.click": world.click,
            "video.rating": 1.0 + np.sum([ndtr(deviations) for deviations in over], axis=0),
            "video.like": log_ndtr(like) - log_ndtr(-like),
            "music.listen": world.listen,
        },
        classes={
            "shop.category": tuple(f"category{topic}" for topic in world.public.topics),
            "music.genre": tuple(f"genre{topic}" for topic in world.musical.topics),
        },
        tags={f"query{number}": query.tags for number, query in enumerate(world.queries)},
    )
