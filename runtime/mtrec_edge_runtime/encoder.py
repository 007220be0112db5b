"""Texts -> item vectors, and the logits of text tasks: tokenise, batch by length, run, put back in order.

Reads `vocab.txt`, an encoder graph and `text_heads.onnx`. Knows nothing of items, users or the catalogue.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrec_edge_runtime.errors import BundleError, InputError
from mtrec_edge_runtime.manifest import TEXT_HEADS, Manifest, Profile
from mtrec_edge_runtime.session import Graph, check_finite
from mtrec_edge_runtime.tokenizer import WordPiece

MAX_TEXT_CHARACTERS = 20_000  # a longer text is refused; a shorter one is cut at the contract's max_tokens
BATCH_TEXTS = 16  # of one run, so that memory does not grow with the number of texts
BATCH_TOKENS = 1024
NO_PIECE = 2  # tokens of a text of which nothing is read: [CLS] and [SEP]

Float32 = NDArray[np.float32]
Encode = Callable[[Sequence[str]], Float32]


def check_text(text: str) -> str:
    """Return `text`; InputError when it is not text, is blank or is beyond MAX_TEXT_CHARACTERS."""
    if not isinstance(text, str):
        raise InputError(f"a text was expected, got {type(text).__name__}: {text!r:.60}")
    if len(text) > MAX_TEXT_CHARACTERS:
        raise InputError(f"text of {len(text)} characters: at most {MAX_TEXT_CHARACTERS} are taken; shorten it")
    if not text or text.isspace():
        raise InputError(f"empty text {text!r}: an item needs a title or another field with words")
    return text


class Encoder:
    """The tokenizer, the encoder graph of one profile and the text tasks' heads."""

    def __init__(self, folder: Path, manifest: Manifest, *, profile: Profile, threads: int) -> None:
        """Open vocabulary and graph; BundleError when the bundle lacks the profile or the parts do not fit."""
        if profile not in manifest.profiles:
            raise (BundleError if profile in ("fast", "exact") else InputError)(
                f"profile {profile!r}: {folder} holds {', '.join(sorted(manifest.profiles))}; choose one of these"
            )
        self.contract = manifest.input
        self.padded = profile == "exact"  # dynamic quantization must not see padding
        self.tokenizer = WordPiece.load(folder / "vocab.txt")
        self.graph = Graph(
            folder / manifest.profiles[profile],
            threads=threads,
            weight_only=profile == "exact",
            few_shapes=True,  # at most BATCH_TEXTS times `max_tokens`
            lowest=manifest.onnx.onnxruntime,
        )
        self.graph.require(("input_ids", "attention_mask") if self.padded else ("input_ids",), ("vector", "states"))
        width = self.graph.widths["vector"]
        if isinstance(width, int) and width != self.contract.vector_size:
            raise BundleError(
                f"{self.graph.path}: item vectors of {width} numbers, the manifest's are of "
                f"{self.contract.vector_size}; the bundle's parts do not belong together"
            )
        tasks = [task for task in manifest.tasks if not task.pairwise]
        self.heads = Graph(folder / TEXT_HEADS, threads=threads, lowest=manifest.onnx.onnxruntime) if tasks else None
        if self.heads:
            self.heads.require({task.reads for task in tasks}, [task.name for task in tasks])
            for task in tasks:
                if (width := self.heads.widths.get(task.name)) != len(task.labels):
                    raise BundleError(
                        f"{self.heads.path}: {task.name} has {width} columns, the manifest {len(task.labels)} labels; "
                        "the bundle's parts do not belong together"
                    )

    def vectors(self, texts: Sequence[str]) -> Float32:
        """Return item vectors float32 (texts, D) of unit length. Texts are cut at `max_tokens`."""
        return self.run([self._ids(text) for text in texts], "vector")

    def logits(self, text: str, task: str) -> Float32:
        """Return a multiclass task's logits (labels,) for a text."""
        result: Float32 = self.run([self._ids(text)], task)[0]
        return result

    def word_logits(self, words: Sequence[str], task: str) -> list[Float32 | None]:
        """Return a token task's logits (labels,) for each word; None for one cut off at `max_tokens` or unreadable."""
        ids, firsts = self.tokenizer.encode_words(words, max_tokens=self.contract.max_tokens)
        logits = self.run([ids], task)[0]
        return [logits[first] if first >= 0 else None for first in firsts]

    def _ids(self, text: str) -> list[int]:
        ids = self.tokenizer.encode(check_text(text), max_tokens=self.contract.max_tokens)
        if len(ids) <= NO_PIECE:
            raise InputError(f"text {text!r:.60}: nothing in it can be read, only marks and control characters")
        return ids

    def run(self, ids: Sequence[Sequence[int]], output: str) -> Float32:
        """Return `vector`, or a text task's logits, for each list of token ids, float32 (texts, ...)."""
        if len(ids) == 1:  # nothing to put in order: after a graph has run, each line of Python finds its caches empty
            return self._run(ids, output)
        found: list[Any] = [None] * len(ids)
        for batch in run_batches([len(text) for text in ids], padded=self.padded):
            for position, row in zip(batch, self._run([ids[position] for position in batch], output), strict=True):
                found[position] = row
        result: Float32 = np.stack(found)
        return result

    def _run(self, ids: Sequence[Sequence[int]], output: str) -> Float32:
        values: Float32
        if self.heads is None or output not in self.heads.outputs:
            (values,) = self.graph.run(self._feeds(ids), [output])
            return check_finite(values, self.graph.path)
        read = self.graph.run(self._feeds(ids), self.heads.inputs)
        (values,) = self.heads.run(dict(zip(self.heads.inputs, read, strict=True)), [output])
        return check_finite(values, self.heads.path)

    def _feeds(self, ids: Sequence[Sequence[int]]) -> dict[str, NDArray[np.int64]]:
        """Return what the graph takes for texts in order of length; profile `exact` pads them to one."""
        if not self.padded:
            return {"input_ids": np.array(ids, np.int64)}
        tokens = np.full((len(ids), len(ids[-1])), self.tokenizer.pad, np.int64)
        mask = np.zeros_like(tokens)
        for row, text in enumerate(ids):
            tokens[row, : len(text)] = text
            mask[row, : len(text)] = 1
        return {"input_ids": tokens, "attention_mask": mask}


def run_batches(lengths: Sequence[int], *, padded: bool) -> Iterator[list[int]]:
    """Yield positions, shortest first: at most 16 texts or 1,024 tokens, of equal length unless `padded`."""
    batch: list[int] = []
    for position in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[position]
        full = len(batch) == BATCH_TEXTS or (len(batch) + 1) * length > BATCH_TOKENS
        if batch and (full or (not padded and lengths[batch[0]] != length)):
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch
