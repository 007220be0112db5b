"""How well labelled stretches of words are found: the definition of conlleval and of seqeval's default mode.

A label is `O` or a letter of `B I E S`, a dash and a type. A span must match in its type and in both ends.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mtrec_edge_runtime.errors import InputError

Span = tuple[str, int, int]  # type, first word, last word

_ENDS_BEFORE = {"B": "BSO", "I": "BSO", "E": "BIESO", "S": "BIESO", "O": ""}  # next letters that end a span
_STARTS_AFTER = {"B": "", "I": "", "E": "EI", "S": "EI", "O": "EI"}  # letters that start one, besides B and S


def spans(labels: Sequence[str]) -> set[Span]:
    """Return the spans of one text's labels, one label a word. Raise InputError for a label of another scheme.

    >>> sorted(spans(["B-brand", "I-brand", "O", "I-size"]))
    [('brand', 0, 1), ('size', 3, 3)]
    """
    found: set[Span] = set()
    previous, previous_type, first = "O", "", 0
    for position, label in enumerate([*labels, "O"]):
        letter, kind = label[:1], label[1:].split("-", maxsplit=1)[-1] or "_"
        if letter not in _ENDS_BEFORE:
            raise InputError(
                f"label {label!r} of word {position}: span metrics need O, B-type, I-type, E-type or S-type"
            )
        changed = kind != previous_type
        if letter in _ENDS_BEFORE[previous] or (previous != "O" and changed):
            found.add((previous_type, first, position - 1))
        if letter in "BS" or letter in _STARTS_AFTER[previous] or (letter != "O" and changed):
            first = position
        previous, previous_type = letter, kind
    return found


def span_counts(predicted: Sequence[str], true: Sequence[str]) -> tuple[int, int]:
    """Return how many spans of one text were found rightly, and how many there are in both labellings together."""
    ours, theirs = spans(predicted), spans(true)
    return len(ours & theirs), len(ours) + len(theirs)


def span_f1(predicted: Sequence[Sequence[str]], true: Sequence[Sequence[str]]) -> float:
    """Return the micro F1 of spans over texts, 2 TP / (predicted spans + true spans); nan without any span.

    Tjong Kim Sang and De Meulder 2003, "Introduction to the CoNLL-2003 shared task"; Nakayama 2018, seqeval.
    """
    counts = [span_counts(p, t) for p, t in zip(predicted, true, strict=True)]
    return span_f1_of(*np.array(counts, np.int64).reshape(-1, 2).T)


def span_f1_of(hits: npt.NDArray[Any], both: npt.NDArray[Any]) -> float:
    """Return `span_f1` from what `span_counts` found in each text, (texts,) each."""
    total = int(both.sum())
    return 2.0 * int(hits.sum()) / total if total else float("nan")
