"""Texts beyond the corpus: a student reads them with the teacher's word alone, for they carry no label.

Some come from files (unlabelled.py). The others are made of what training may read: a text's head joined to another's
tail, within one domain and table. So names and words meet in new company, which is what an unseen text is. In the
corpus's row space they stand behind all else.
Source of the idea: augmentation for distillation, Jiao et al., TinyBERT, 2020; here no language model is needed.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mtrec_edge_compress.data.arrays import Arrays, IntArray
from mtrec_edge_compress.unread import read_texts
from mtrec_edge_runtime.tokenizer import split_words
from mtrec_edge_runtime.whole_file import write_whole


@dataclass(frozen=True)
class ExtraText:
    """One such text."""

    text: str
    words: tuple[str, ...]  # of a text whose words the teacher tags, else none
    domain: str
    table: str  # "items" or "texts": whose tasks it can be asked about


def cross_texts(arrays: Arrays, unread: IntArray, *, share: float, seed: int) -> tuple[ExtraText, ...]:
    """Return at most `share` crossed texts for each readable one, the same for the same seed; `unread` items give none.

    None comes twice, and none equals a text of the corpus, held-out ones least of all.
    """
    rng = np.random.default_rng((seed, 5))
    pool = read_texts(arrays, unread)
    made = [
        text
        for table, domain, rows in _groups(arrays, pool)
        for text in _crossed(arrays, rows, round(share * len(rows)), rng, table=table, domain=domain)
    ]
    return without_corpus(arrays, made)


def without_corpus(arrays: Arrays, texts: Iterable[ExtraText]) -> tuple[ExtraText, ...]:
    """Return the texts once each, without those whose words are those of a text, title or description of the corpus.

    So a held-out text stays unseen.
    """
    items = arrays.dataset.items
    corpus = {
        tuple(split_words(text))
        for text in (*arrays.item_texts, *arrays.texts, *items["title"].to_list(), *items["description"].to_list())
    }
    return tuple(extra for extra in dict.fromkeys(texts) if tuple(split_words(extra.text)) not in corpus)


def _groups(arrays: Arrays, pool: IntArray) -> Iterator[tuple[str, str, IntArray]]:
    """Yield each table's and domain's readable corpus rows, where there are at least two."""
    items = len(arrays.item_ids)
    of_text = np.array(arrays.dataset.texts["domain"].to_list(), object)
    for domain, rows in arrays.domains.items():
        yield "items", domain, pool[(pool >= rows.start) & (pool < rows.stop)]
    for domain in sorted(set(of_text)):
        yield "texts", domain, np.intersect1d(pool, np.flatnonzero(of_text == domain) + items)


def _crossed(
    arrays: Arrays, rows: IntArray, count: int, rng: np.random.Generator, *, table: str, domain: str
) -> Iterator[ExtraText]:
    if len(rows) < 2:
        return
    for first, second in zip(rng.choice(rows, count), rng.choice(rows, count), strict=True):
        head, tail = (_words(arrays, int(row)) for row in (first, second))
        if not head or not tail:
            continue
        words = (*head[: int(rng.integers(1, len(head) + 1))], *tail[int(rng.integers(0, len(tail))) :])
        tagged = table == "texts" and bool(arrays.text_tokens[int(first) - len(arrays.item_ids)])
        yield ExtraText(" ".join(words), words if tagged else (), domain, table)


def _words(arrays: Arrays, row: int) -> Sequence[str]:
    items = len(arrays.item_ids)
    if row < items:
        return arrays.item_texts[row].split()
    return arrays.text_tokens[row - items] or arrays.texts[row - items].split()


def save_extra(extra: Sequence[ExtraText], path: Path) -> None:
    """Write the texts, one JSON object a line, whole or not at all."""
    write_whole(path, "".join(json.dumps(asdict(text)) + "\n" for text in extra))


def load_extra(path: Path) -> tuple[ExtraText, ...]:
    """Read what `save_extra` wrote."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return tuple(ExtraText(row["text"], tuple(row["words"]), row["domain"], row["table"]) for row in rows)
