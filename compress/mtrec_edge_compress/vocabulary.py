"""Vocabularies: a BERT's trimmed to a domain, or a small one made from a domain's words."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mtrec_edge_compress.data.arrays import Arrays, IntArray
from mtrec_edge_compress.text_labels import TextLabels
from mtrec_edge_compress.tokens import Tokens, tokenize
from mtrec_edge_runtime.errors import StageError
from mtrec_edge_runtime.tokenizer import WordPiece, split_words

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class Trimmed:
    """A vocabulary cut to a domain."""

    tokens: tuple[str, ...]
    teacher_ids: tuple[int, ...]  # each token's id in the teacher's vocabulary
    unknown_rate: float  # share of [UNK] among the training texts' tokens
    teacher_unknown_rate: float  # the same with the whole vocabulary
    growth: float  # tokens of the training texts, trimmed over whole


def trim_vocabulary(
    vocabulary: Sequence[str], arrays: Arrays, *, size: int, min_count: int, max_tokens: int
) -> Trimmed:
    """Keep the special tokens, every single character, and the most frequent tokens of the training texts.

    Args:
        vocabulary: the teacher's WordPiece vocabulary, id order.
        arrays: the dataset.
        size: most tokens kept.
        min_count: a token seen less often is dropped.
        max_tokens: texts are cut there.

    Raises:
        StageError: the vocabulary is no WordPiece vocabulary.
    """
    missing = [token for token in SPECIAL[:4] if token not in vocabulary]
    if missing:
        raise StageError(
            f"the teacher's vocabulary has no {', '.join(missing)}: it is no WordPiece vocabulary; the next step: give "
            "the student a BERT encoder of its own with --set student.encoder=PATH"
        )
    rows = TextLabels(arrays).pool(every_text=True)
    whole = tokenize(arrays, WordPiece(vocabulary), max_tokens)
    counts = _counts(whole, rows)
    always = {i for i, token in enumerate(vocabulary) if token in SPECIAL or len(token.removeprefix("##")) == 1}
    frequent = [i for i, count in counts.most_common() if count >= min_count and i not in always]
    kept = sorted(always | set(frequent[: max(0, size - len(always))]))
    trimmed = tuple(vocabulary[i] for i in kept)
    small = tokenize(arrays, WordPiece(trimmed), max_tokens)
    after = _counts(small, rows)
    return Trimmed(
        trimmed,
        tuple(kept),
        after[trimmed.index("[UNK]")] / sum(after.values()),
        counts[list(vocabulary).index("[UNK]")] / sum(counts.values()),
        sum(after.values()) / sum(counts.values()),
    )


def _counts(tokens: Tokens, rows: IntArray) -> Counter[int]:
    counts: Counter[int] = Counter()
    for row in rows:
        counts.update(tokens.ids[row].tolist())
    return counts


def word_vocabulary(texts: Iterable[str], size: int) -> list[str]:
    """Return a WordPiece vocabulary of a domain's own words: specials, characters, then words by frequency."""
    words: Counter[str] = Counter(word for text in texts for word in split_words(text))
    characters = sorted({char for word in words for char in word})
    vocabulary = [*SPECIAL, *characters, *(f"##{char}" for char in characters)]
    room = max(0, size - len(vocabulary))
    known = set(vocabulary)
    return vocabulary + [word for word, _ in words.most_common() if word not in known][:room]
