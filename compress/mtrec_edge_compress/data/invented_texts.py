"""Invented but pronounceable texts of the synthetic world: words, item texts, tagged queries. Pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

WORDS_PER_TOPIC, COMMON_WORDS, QUERY_WORDS = 40, 80, 60
TITLE_WORDS, DESCRIPTION_WORDS, TAGS = 3, (8, 16), 2
COMMON_SHARE = 0.3  # of a text's words belong to no topic
TAG_LABELS = ("O", "B-brand", "I-brand", "B-colour", "B-product", "I-product", "B-size", "I-size")


@dataclass(frozen=True)
class ItemText:
    """The text fields of one item."""

    title: str
    description: str
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Query:
    """A product query: words and the label of each."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]


def invent_words(rng: np.random.Generator, count: int) -> list[str]:
    """Return distinct words of two or three syllables, e.g. 'bano', 'keltiru'."""
    words: dict[str, None] = {}
    while len(words) < count:
        syllables = rng.integers(2, 4)
        parts = [
            "".join(rng.choice(list(letters)) for letters in ("bdfgklmnprstvz", "aeiou")) for _ in range(syllables)
        ]
        words["".join(parts) + rng.choice(["", "n", "r", "l", "s"])] = None
    return list(words)


def write_item_texts(rng: np.random.Generator, mixtures: FloatArray, words: Sequence[str]) -> list[ItemText]:
    """Return a text for each item from its topic mixture, (items, topics).

    `words` holds the common words first, then WORDS_PER_TOPIC of each topic. Within a topic the word of rank r has a
    probability proportional to 1 / r. A tag is a word of one of the item's topics, like any other word of it.
    """
    zipf = 1 / np.arange(1, WORDS_PER_TOPIC + 1)
    zipf /= zipf.sum()
    topics = mixtures.shape[1]

    def draw(mixture: FloatArray, count: int, common: float) -> list[str]:
        chosen = rng.choice(topics, count, p=mixture) * WORDS_PER_TOPIC + rng.choice(WORDS_PER_TOPIC, count, p=zipf)
        plain = rng.integers(0, COMMON_WORDS, count)
        return [words[i] for i in np.where(rng.random(count) < common, plain, COMMON_WORDS + chosen)]

    return [
        ItemText(
            title=" ".join(draw(mixture, TITLE_WORDS, COMMON_SHARE)),
            description=" ".join(draw(mixture, int(rng.integers(*DESCRIPTION_WORDS)), COMMON_SHARE)),
            tags=tuple(dict.fromkeys(draw(mixture, TAGS, 0.0))),
        )
        for mixture in mixtures / mixtures.sum(axis=1, keepdims=True)
    ]


def write_queries(rng: np.random.Generator, count: int, words: Sequence[str]) -> list[Query]:
    """Return tagged queries: an optional brand, an optional colour, a product, an optional size, other words between.

    Some words are brands at the start of a query and colours elsewhere, so that only their place tells; whoever knows
    the lexicons and this rule tags every word rightly. `words` gives the lexicons, QUERY_WORDS words.
    """
    both, brands, colours, products, other = (
        list(part) for part in np.split(np.array(words[:QUERY_WORDS]), [5, 20, 28, 50])
    )
    queries = []
    for _ in range(count):
        tagged: list[tuple[str, str]] = []
        if rng.random() < 0.6:
            tagged.append((str(rng.choice(both + brands)), "B-brand"))
            if rng.random() < 0.3:
                tagged.append((str(rng.choice(brands)), "I-brand"))
        if rng.random() < 0.5:
            tagged.append((str(rng.choice(both + colours if tagged else colours)), "B-colour"))
        tagged.append((str(rng.choice(products)), "B-product"))
        if rng.random() < 0.4:
            tagged.append((str(rng.choice(products)), "I-product"))
        if rng.random() < 0.4:
            tagged.append((str(rng.choice(other)), "O"))
        if rng.random() < 0.4:
            tagged += [(str(rng.integers(1, 40)), "B-size"), (str(rng.choice(["gal", "met", "pon"])), "I-size")]
        tokens, tags = zip(*tagged, strict=True)
        queries.append(Query(tokens, tags))
    return queries
