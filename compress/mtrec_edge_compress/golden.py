"""The examples in a bundle's `golden.json`, by which it proves itself on any machine and in any language.

The texts are invented: no line of the data is published, and each holds something on which tokenizers differ. What the
file says of them is the runtime's own work.
"""

from pathlib import Path

from mtrec_edge_compress.data.arrays import Arrays
from mtrec_edge_runtime.golden import fast_cosine, write_golden
from mtrec_edge_runtime.history import Event
from mtrec_edge_runtime.recommender import Recommender

TEXTS = (
    "red running shoes",
    "Crème brûlée à la carte, 2 für 1!",  # accents
    "cafe\u0301 noir",  # the same accent as a combining mark
    "ΟΔΥΣΣΕΥΣ",  # final sigma
    "İSTANBUL ılık",  # dotted and dotless i
    "東京タワー2024",  # ideographs stand alone, kana do not
    "𠮷野家",  # an ideograph outside the basic plane
    "“naïve”—co-op… ½ price €9",  # punctuation and symbols
    "[SEP] is plain text, and so is [MASK]",
    "zero\u200bwidth, soft\u00adhyphen,\ttab\u00a0and\u3000space",
    "👩\u200d🚀🚀 ok",  # joined emoji
    "अनुच्छेद ไทย עברית",  # scripts with marks
    "pneumonoultramicroscopicsilicovolcanoconiosis " + "x" * 120,  # words at and beyond the longest that is split
    "?",
)
STORY = "a quiet story about the sea"
CANDIDATES = 10
FAST_SLACK = 0.01  # other CPUs and runtimes round profile `fast` otherwise

Ranking = tuple[str, list[Event], list[str]]  # domain, history oldest first, candidate ids


def add_golden(folder: Path, arrays: Arrays) -> None:
    """Write `golden.json` into the bundle in `folder`, whose manifest and other files are there."""
    domains = dict.fromkeys(task.domain for task in arrays.tasks if task.source == "events")
    exact = Recommender(folder, profile="exact", verify=False)
    ranks = [ranking for domain in domains for ranking in _rankings(arrays, domain)]
    if exact.manifest.input.no_history:
        ranks += [(domain, [], items) for domain, _, items in {ranking[0]: ranking for ranking in ranks}.values()]
    write_golden(folder, TEXTS, ranks=ranks, fast_cosine=fast_cosine(folder, TEXTS, exact.encode(TEXTS)) - FAST_SLACK)


def _rankings(arrays: Arrays, domain: str) -> list[Ranking]:
    """Return three histories of a domain: one item, every behaviour twice, an item and a new text."""
    items = list(arrays.item_ids[arrays.domains[domain]][:CANDIDATES])
    own = [behaviour for behaviour in arrays.behaviours if behaviour.domain == domain]

    def event(number: int, text: str | None = None) -> Event:
        behaviour = own[number % len(own)]
        item = items[number % len(items)] if text is None else None
        value = behaviour.mean + behaviour.scale / (1 + number) if behaviour.valued else None
        return Event(item, text, domain, behaviour.name, value)

    histories = ([event(0)], [event(number) for number in range(2 * len(own))], [event(0), event(1, STORY)])
    return [(domain, history, items) for history in histories]
