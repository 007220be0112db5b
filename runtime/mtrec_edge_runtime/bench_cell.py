"""Measure one cell of the benchmark, in a process started for it: `python -m mtrec_edge_runtime.bench_cell`.

Reads a `Cell` as JSON on stdin and prints `{"phases": {name: summary}, "samples": {name: [ms, ...]}, ...}` on stdout.
Knows nothing of repeats, tables or files; `bench.py` starts it.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mtrec_edge_runtime.catalogue import Catalogue
from mtrec_edge_runtime.encoder import Encoder
from mtrec_edge_runtime.errors import InputError
from mtrec_edge_runtime.history import Event, HistoryEntry
from mtrec_edge_runtime.machine import resident_bytes
from mtrec_edge_runtime.manifest import Profile, read_manifest
from mtrec_edge_runtime.own_core import PACE, arithmetic
from mtrec_edge_runtime.recommender import Recommender
from mtrec_edge_runtime.session import Graph
from mtrec_edge_runtime.timing import Sampling, median_ratio, sample_ms, summarize, thin
from mtrec_edge_runtime.tokenizer import WordPiece

CANDIDATES = 1000  # catalogue items ranked in a `rank` cell
TEXT_TOKENS = 32  # length of the new item's text in `rank` and `memory` cells

Calls = dict[str, Callable[[], object]]


@dataclass(frozen=True)
class Cell:
    """One thing to measure, alone in its process."""

    kind: Literal["encode", "rank", "memory", "against"]
    bundle: str  # folder
    profile: Profile = "fast"
    threads: int = 1
    batch: int = 1  # encode, against: texts a call
    tokens: int = TEXT_TOKENS  # encode, against: of every text, [CLS] and [SEP] included
    domain: str = ""  # rank, memory
    against: str = ""  # against: ONNX file of the other encoder
    sampling: Sampling = field(default_factory=Sampling)


def measure(cell: Cell) -> dict[str, Any]:
    """Measure a cell; return the summary and the thinned samples of its phases, and of its core's pace, in ms."""
    if cell.kind == "encode":
        return _timed(_encode_calls(cell), cell.sampling)
    if cell.kind == "rank":
        return _timed(_rank_calls(cell), cell.sampling) | {"candidates": len(_candidates(cell))}
    if cell.kind == "against":
        return _timed(_against_calls(cell), cell.sampling)
    for call in _rank_calls(cell).values():
        call()
    return {"resident_bytes": resident_bytes()}


def text_of_length(tokenizer: WordPiece, tokens: int, *, seed: int = 0) -> str:
    """Return whole words of the vocabulary that tokenize to exactly `tokens` ids, [CLS] and [SEP] included."""
    words = [word for word in tokenizer.vocab if word.isascii() and word.isalpha() and word.islower()]
    if not words:
        raise InputError("the bundle's vocabulary holds no whole word to build a text of: check its vocab.txt")
    picks = np.random.default_rng(seed).integers(0, len(words), tokens - 2)
    return " ".join(words[pick] for pick in picks)


def _timed(calls: Calls, sampling: Sampling) -> dict[str, Any]:
    cpu, wall = time.process_time(), time.perf_counter()
    samples = sample_ms({PACE: arithmetic} | calls, sampling)
    share = (time.process_time() - cpu) / (time.perf_counter() - wall)
    timed: dict[str, Any] = {
        "phases": {name: summarize(samples[name]) for name in calls},
        "samples": {name: thin(series).round(5).tolist() for name, series in samples.items()},
        "cpu_share": round(share, 3),  # below 1 a core: something else ran on this core meanwhile
    }
    if "against" in samples:
        timed["speedup"] = median_ratio(samples["against"], samples["bundle"])
    return timed


def _encode_calls(cell: Cell) -> Calls:
    """Time text to vector: tokenize and infer apart, and the call an application makes."""
    recommender = Recommender(cell.bundle, profile=cell.profile, threads=cell.threads)
    encoder = recommender.encoder  # one, as in an application: two would take each other's place in the caches
    texts = _texts(encoder.tokenizer, cell)
    feeds = _feeds(encoder.graph, encoder.tokenizer, cell)
    return {
        "tokenize": lambda: [encoder.tokenizer.encode(text, max_tokens=cell.tokens) for text in texts],
        "infer": lambda: encoder.graph.run(feeds, ["vector"]),
        "total": lambda: recommender.encode(texts),
    }


def _against_calls(cell: Cell) -> Calls:
    """Time the bundle's encoder and another ONNX encoder on the same ids, round by round in one window."""
    encoder, other = _encoder(cell), Graph(cell.against, threads=cell.threads)
    ours, theirs = (_feeds(graph, encoder.tokenizer, cell) for graph in (encoder.graph, other))
    wanted = "vector" if "vector" in other.outputs else other.outputs[0]
    return {
        "bundle": lambda: encoder.graph.run(ours, ["vector"]),
        "against": lambda: other.run(theirs, [wanted]),
    }


def _rank_calls(cell: Cell) -> Calls:
    """Time history to scores of every task of a domain: over known items, and with one new text in the history."""
    recommender = Recommender(cell.bundle, profile=cell.profile, threads=cell.threads)
    contract = read_manifest(cell.bundle, verify=False).input
    tokenizer = WordPiece.load(Path(cell.bundle) / "vocab.txt")
    candidates = _candidates(cell)
    history: list[HistoryEntry] = [*candidates[: contract.max_history]]
    text = text_of_length(tokenizer, min(TEXT_TOKENS, contract.max_tokens))
    with_text: list[HistoryEntry] = [*history[1:], Event(text=text)]
    return {
        "rank": lambda: recommender.score(history, candidates, domain=cell.domain),
        "rank_with_new_text": lambda: recommender.score(with_text, candidates, domain=cell.domain),
    }


def _candidates(cell: Cell) -> Sequence[str]:
    manifest = read_manifest(cell.bundle, verify=False)
    catalogue = Catalogue(cell.bundle, manifest.domains, vector_size=manifest.input.vector_size)
    return catalogue.ids(cell.domain)[:CANDIDATES]


def _encoder(cell: Cell) -> Encoder:
    manifest = read_manifest(cell.bundle, verify=False)
    return Encoder(Path(cell.bundle), manifest, profile=cell.profile, threads=cell.threads)


def _texts(tokenizer: WordPiece, cell: Cell) -> list[str]:
    return [text_of_length(tokenizer, cell.tokens, seed=seed) for seed in range(cell.batch)]


def _feeds(graph: Graph, tokenizer: WordPiece, cell: Cell) -> dict[str, NDArray[np.int64]]:
    """Fill what an encoder asks for: ids, a mask of ones, zeros for any other input, all (batch, tokens)."""
    rows = [tokenizer.encode(text, max_tokens=cell.tokens) for text in _texts(tokenizer, cell)]
    ids = np.array(rows, dtype=np.int64)
    known = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    return {name: known.get(name, np.zeros_like(ids)) for name in graph.inputs}


def cell_to_json(cell: Cell) -> str:
    """Write a cell for the process that will measure it."""
    return json.dumps(asdict(cell))


def _main() -> None:
    fields = json.loads(sys.stdin.read())
    cell = Cell(**fields | {"sampling": Sampling(**fields["sampling"])})
    print(json.dumps(measure(cell)))


if __name__ == "__main__":
    _main()
