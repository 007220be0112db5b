"""WordPiece as BERT's uncased tokenizer does it, in plain Python: text -> token ids.

Reads `vocab.txt`; needs only the standard library. Gives what Hugging Face's BertTokenizerFast gives with
`split_special_tokens=True` (so "[SEP]" in a user's text is plain text), on every Python version: the Unicode
tables are frozen. Knows nothing of models or batches.
"""

import re
import sys
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from mtrec_edge_runtime import unicode_tables as tables
from mtrec_edge_runtime.errors import BundleError, InputError
from mtrec_edge_runtime.integrity import read_bounded

MAX_VOCABULARY_BYTES = 32 << 20
MAX_WORD_CHARACTERS = 100  # a longer word is [UNK], as in BERT
CACHED_WORDS = 8192
CACHED_CHARACTERS = 1 << 15
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")

_edges = (*tables.KEPT_MARKS, 0x1D15E, 0x1D165, 0x1D1BB, 0x1D1C1)  # the latter: notes that decompose into kept marks
_KEPT = re.compile(
    "[" + "".join(f"{chr(a)}-{chr(b - 1)}" for a, b in zip(_edges[::2], _edges[1::2], strict=True)) + "]"
)


def _decompose(character: str) -> str:
    """Return the canonical decomposition, as the reference's Unicode version has it."""
    return character if tables.inside(tables.WHOLE, ord(character)) else unicodedata.normalize("NFD", character)


def _lower(character: str) -> str:
    """Return the lower case of one character by itself, so that a final sigma stays an ordinary one."""
    code = ord(character)
    for first, last, target in tables.LOWER:
        if first <= code <= last:
            return chr(target + code - first)
    return character.lower()


class _Characters(dict[int, str]):
    """Code point -> what it becomes in normalised text, words parted by spaces; filled as characters are met."""

    def __missing__(self, code: int) -> str:
        if len(self) >= CACHED_CHARACTERS:
            self.clear()
        result = self[code] = self._normalise(code)
        return result

    @staticmethod
    def _normalise(code: int) -> str:
        if 0xD800 <= code < 0xE000:
            raise InputError(f"the text holds the lone surrogate U+{code:04X}: decode it as UTF-8 or UTF-16 first")
        if tables.inside(tables.DROP, code):
            return ""
        if tables.inside(tables.SPACE, code):
            return " "
        kept = (c for c in _decompose(chr(code)) if not tables.inside(tables.MARKS, ord(c)))
        lowered = "".join(map(_lower, kept))
        parted = "".join(f" {c} " if tables.inside(tables.PUNCTUATION, ord(c)) else c for c in lowered)
        return f" {parted} " if tables.inside(tables.CJK, code) else parted


_CHARACTERS = _Characters()


def _reorder(text: str) -> str:
    """Decompose and put runs of combining characters in canonical order; needed when kept marks meet."""
    result: list[str] = []
    run: list[str] = []
    for character in (c for raw in text if not tables.inside(tables.DROP, ord(raw)) for c in _decompose(raw)):
        code = ord(character)
        known = tables.inside(tables.MARKS, code) or tables.inside(tables.KEPT_MARKS, code)
        if known and unicodedata.combining(character):
            run.append(character)
            continue
        result += [*sorted(run, key=unicodedata.combining), character]
        run = []
    return "".join([*result, *sorted(run, key=unicodedata.combining)])


def split_words(text: str) -> list[str]:
    """Return the normalised words of a text: lower case, no accents, punctuation and ideographs a word each."""
    if not text.isascii() and len(_KEPT.findall(text)) > 1:
        text = _reorder(text)
    return text.translate(_CHARACTERS).split()


class WordPiece:
    """A vocabulary and the greedy longest-match-first split of words into its pieces."""

    def __init__(self, vocab: Sequence[str]) -> None:
        """Take the tokens in id order; BundleError when one is double or [PAD], [UNK], [CLS], [SEP] is missing."""
        ids = dict(zip(vocab, range(len(vocab)), strict=True))
        if len(ids) != len(vocab) or not ids.keys() >= set(SPECIAL):
            raise BundleError(
                f"vocabulary of {len(vocab)} lines: tokens must be distinct and hold {', '.join(SPECIAL)}"
            )
        self.vocab = tuple(vocab)
        self.pad, self.unknown, self.start, self.end = (ids[token] for token in SPECIAL)
        self._first = ids
        self._next = {token[2:]: position for token, position in ids.items() if token.startswith("##")}
        self._longest = max(map(len, ids))
        self._pieces = lru_cache(CACHED_WORDS)(self._match)

    @classmethod
    def load(cls, path: str | Path) -> "WordPiece":
        """Read `vocab.txt`: UTF-8, one token a line, line number = id."""
        try:
            text = read_bounded(Path(path), MAX_VOCABULARY_BYTES).decode()
        except UnicodeDecodeError as error:
            raise BundleError(f"{path}: {error}; the vocabulary must be UTF-8") from error
        return cls(text.removesuffix("\n").removesuffix("\r").replace("\r\n", "\n").split("\n"))

    def tokenize(self, text: str) -> list[str]:
        """Return the pieces of a text, without [CLS] and [SEP]."""
        return [self.vocab[piece] for piece in self._ids(text, sys.maxsize)]

    def encode(self, text: str, *, max_tokens: int) -> list[int]:
        """Return token ids with [CLS] and [SEP]; pieces beyond `max_tokens` are cut off."""
        return [self.start, *self._ids(text, max_tokens - 2), self.end]

    def encode_words(self, words: Sequence[str], *, max_tokens: int) -> tuple[list[int], list[int]]:
        """Return token ids of given words with [CLS] and [SEP], and the position of each word's first piece.

        The position is -1 for a word that was cut off or has no piece (nothing but control characters).
        """
        ids, firsts = [self.start], []
        for word in words:
            pieces = self._ids(word, max_tokens - 1 - len(ids))
            firsts.append(len(ids) if pieces else -1)
            ids += pieces
        return [*ids, self.end], firsts

    def _ids(self, text: str, most: int) -> list[int]:
        """Return the ids of at most `most` pieces; words beyond these are not looked up."""
        ids: list[int] = []
        pieces = self._pieces
        for word in split_words(text):
            if len(ids) >= most:
                break
            ids += pieces(word) if len(word) <= MAX_WORD_CHARACTERS else (self.unknown,)
        return ids[: max(most, 0)]

    def _match(self, word: str) -> tuple[int, ...]:
        """Return the ids of the longest pieces from left to right; [UNK] alone when a rest matches none."""
        ids: list[int] = []
        start = 0
        while start < len(word):
            table = self._next if start else self._first
            for end in range(min(len(word), start + self._longest), start, -1):
                if (piece := table.get(word[start:end])) is not None:
                    ids.append(piece)
                    break
            else:
                return (self.unknown,)
            start = end
        return tuple(ids)
