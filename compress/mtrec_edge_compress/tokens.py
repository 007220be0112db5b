"""The texts of a dataset as token ids, for one vocabulary.

Row space: catalogue items first (as in Arrays), then the rows of the texts table.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, BertTokenizer, BertTokenizerFast

from mtrec_edge_compress.data.arrays import Arrays, IntArray
from mtrec_edge_runtime.errors import StageError
from mtrec_edge_runtime.tokenizer import WordPiece


class Tokenizer(Protocol):
    """What turns text into ids: the device's WordPiece, or any `transformers` tokenizer."""

    def encode(self, text: str, *, max_tokens: int) -> list[int]:
        """Return ids with the special tokens, at most `max_tokens`."""
        ...

    def encode_words(self, words: Sequence[str], *, max_tokens: int) -> tuple[list[int], list[int]]:
        """Return ids and each word's first position, -1 for a word that was cut."""
        ...


class HubTokenizer:
    """Any fast `transformers` tokenizer behind the two calls of `Tokenizer`."""

    def __init__(self, encoder: str) -> None:
        self._tokenizer = self._of_words = AutoTokenizer.from_pretrained(encoder, use_fast=True)
        if hasattr(self._tokenizer, "add_prefix_space"):  # RoBERTa's kind: a word begins with the space before it
            self._of_words = AutoTokenizer.from_pretrained(encoder, use_fast=True, add_prefix_space=True)

    def __len__(self) -> int:
        """Return how many tokens the vocabulary has."""
        return len(self._tokenizer)

    def encode(self, text: str, *, max_tokens: int) -> list[int]:
        """Return ids with the special tokens; "[SEP]" in a text is plain text."""
        ids: list[int] = self._tokenizer(text, truncation=True, max_length=max_tokens, split_special_tokens=True)[
            "input_ids"
        ]
        return ids

    def encode_words(self, words: Sequence[str], *, max_tokens: int) -> tuple[list[int], list[int]]:
        """Return ids and each word's first position, -1 for a word that was cut."""
        encoded = self._of_words(
            list(words), is_split_into_words=True, truncation=True, max_length=max_tokens, split_special_tokens=True
        )
        first = [-1] * len(words)
        for position, word in reversed(list(enumerate(encoded.word_ids()))):
            if word is not None:
                first[word] = position
        return encoded["input_ids"], first


def words_known(tokenizer: Tokenizer) -> int:
    """Return how many tokens a tokenizer's vocabulary has."""
    if isinstance(tokenizer, WordPiece):
        return len(tokenizer.vocab)
    assert isinstance(tokenizer, HubTokenizer)
    return len(tokenizer)


def open_tokenizer(encoder: str) -> Tokenizer:
    """Return the tokenizer of an encoder (hub id or folder): WordPiece when it is BERT's, else its own."""
    try:
        if Path(encoder).is_dir() and not (Path(encoder) / "config.json").is_file():
            raise FileNotFoundError("the folder has no config.json")
        tokenizer = AutoTokenizer.from_pretrained(encoder, use_fast=True)
    except (OSError, ValueError) as error:
        raise StageError(
            f"no tokenizer can be loaded from {encoder!r} ({error}); the next step: give a hub id that can be reached, "
            "or a folder with config.json, model.safetensors and vocab.txt"
        ) from error
    if isinstance(tokenizer, BertTokenizer | BertTokenizerFast) and tokenizer.do_lower_case:
        return WordPiece([token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])])
    return HubTokenizer(encoder)


@dataclass(frozen=True)
class Tokens:
    """Every text of a dataset as ids."""

    ids: tuple[IntArray, ...]  # one array a row
    words: tuple[IntArray, ...]  # first position of each word of a text row; empty for items

    @cached_property
    def lengths(self) -> IntArray:
        """Return each row's length in tokens, (rows,)."""
        return np.array([len(row) for row in self.ids], np.int64)

    def first(self, rows: int) -> "Tokens":
        """Return the first rows alone."""
        return Tokens(self.ids[:rows], self.words[:rows])

    def only(self, rows: IntArray) -> "Tokens":
        """Return as many rows, all others without a token: no encoder is shown them."""
        empty = (np.zeros(0, np.int64),) * len(self.ids)
        ids, words = list(empty), list(empty)
        for row in rows:
            ids[row], words[row] = self.ids[row], self.words[row]
        return Tokens(tuple(ids), tuple(words))

    @property
    def shown(self) -> IntArray:
        """Return the rows that have tokens, ascending."""
        return np.flatnonzero(self.lengths)

    def followed_by(self, other: "Tokens") -> "Tokens":
        """Return the rows of both, the other's behind."""
        return Tokens(self.ids + other.ids, self.words + other.words)

    def padded(self, rows: IntArray, width: int = 0) -> tuple[Tensor, Tensor]:
        """Return ids and mask, (rows, longest) or as wide as asked for, padded with 0."""
        longest = max(width, max(len(self.ids[row]) for row in rows))
        ids = np.zeros((len(rows), longest), np.int64)
        mask = np.zeros((len(rows), longest), np.int64)
        for number, row in enumerate(rows):
            length = len(self.ids[row])
            ids[number, :length] = self.ids[row]
            mask[number, :length] = 1
        return torch.from_numpy(ids), torch.from_numpy(mask)


def tokenize(arrays: Arrays, tokenizer: Tokenizer, max_tokens: int) -> Tokens:
    """Return the ids of every item and text of the dataset, cut at `max_tokens`."""
    texts = [*zip(arrays.item_texts, ((),) * len(arrays.item_texts), strict=True)]
    return tokenize_texts([*texts, *zip(arrays.texts, arrays.text_tokens, strict=True)], tokenizer, max_tokens)


def tokenize_texts(texts: Iterable[tuple[str, Sequence[str]]], tokenizer: Tokenizer, max_tokens: int) -> Tokens:
    """Return the ids of texts, cut at `max_tokens`; each comes with its words where these are labelled, else ()."""
    ids, words = [], []
    for text, split in texts:
        if split:
            row, first = tokenizer.encode_words(split, max_tokens=max_tokens)
        else:
            row, first = tokenizer.encode(text, max_tokens=max_tokens), []
        ids.append(np.array(row, np.int64))
        words.append(np.array(first, np.int64))
    return Tokens(tuple(ids), tuple(words))


def vocabulary_of(encoder: str) -> list[str]:
    """Return an encoder's WordPiece vocabulary, id order.

    Raises:
        StageError: the encoder has another kind of tokenizer, which the device cannot run.
    """
    tokenizer = open_tokenizer(encoder)
    if not isinstance(tokenizer, WordPiece):
        raise StageError(
            f"{encoder!r} has no uncased WordPiece vocabulary, the one kind the device reads; the next step: give the "
            "student an uncased BERT of its own with --set student.encoder=PATH"
        )
    return list(tokenizer.vocab)
