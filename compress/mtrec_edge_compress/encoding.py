"""Encode every text of a dataset once, without gradients: the vector cache, evaluation and the catalogue use it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from mtrec_edge_compress.data.arrays import FloatArray, IntArray
from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_compress.tokens import Tokens
from mtrec_edge_runtime.tasks import Kind

RUN_TOKENS = 4096  # tokens encoded at once


@dataclass(frozen=True)
class Encoded:
    """What an encoder makes of every corpus row."""

    vectors: FloatArray  # (rows, D) unit item vectors
    logits: dict[str, FloatArray]  # multiclass task -> (rows, labels)
    word_logits: dict[str, dict[int, FloatArray]]  # token task -> corpus row -> (words, labels)


def joined(first: Encoded, second: Encoded) -> Encoded:
    """Return the rows of both, the second's behind."""
    rows = len(first.vectors)
    return Encoded(
        np.concatenate([first.vectors, second.vectors]),
        {name: np.concatenate([logits, second.logits[name]]) for name, logits in first.logits.items()},
        {
            name: {**words, **{rows + row: logits for row, logits in second.word_logits[name].items()}}
            for name, words in first.word_logits.items()
        },
    )


def length_batches(lengths: IntArray) -> Iterator[IntArray]:
    """Yield rows sorted by length, at most RUN_TOKENS padded tokens together."""
    order = np.argsort(lengths, kind="stable")
    at = 0
    while at < len(order):
        size = 1
        while at + size < len(order) and lengths[order[at + size]] * (size + 1) <= RUN_TOKENS:
            size += 1
        yield order[at : at + size]
        at += size


def model_dtype(device: torch.device, precision: str) -> torch.dtype:
    """Return bfloat16 where asked for, or where `auto` finds the hardware has it; else float32."""
    if precision == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
        cpu_has_it = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if cpu_has_it else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32


@torch.no_grad()
def encode_pooled(model: MultiTaskModel, tokens: Tokens, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Return the pooled states (rows, hidden) of every text, on `device`."""
    was_training = model.training
    model.eval()
    pooled = torch.zeros(len(tokens.ids), model.hidden_size, device=device)
    for rows in length_batches(tokens.lengths):
        ids, mask = tokens.padded(rows)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            _, part = model.text(ids.to(device), mask.to(device))
        pooled[torch.from_numpy(rows).to(device)] = part.float()
    model.train(was_training)
    return pooled


@torch.no_grad()
def encode_all(
    model: MultiTaskModel,
    tokens: Tokens,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    pooled: torch.Tensor | None = None,
    label: str = "encoding",
    progress: bool = False,
) -> Encoded:
    """Return every output of the model's text side for every corpus row.

    `pooled` (rows, hidden) is what `encode_pooled` gave for the same weights, where that is at hand: only texts whose
    words are labelled are then encoded again.
    """
    model.eval()
    outputs = _Outputs(model, tokens)
    rest = np.arange(len(tokens.ids))
    if pooled is not None:
        worded = np.array([len(words) > 0 for words in tokens.words], bool) & bool(outputs.words)
        known, rest = np.flatnonzero(~worded), np.flatnonzero(worded)
        for rows in np.array_split(known, -(-len(known) // RUN_TOKENS)) if len(known) else ():
            outputs.keep(rows, pooled[torch.from_numpy(rows).to(pooled.device)], None)
    with tqdm(total=len(rest), desc=label, unit="text", disable=not progress, leave=False) as bar:
        for batch in length_batches(tokens.lengths[rest]):
            rows = rest[batch]
            ids, mask = tokens.padded(rows)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                states, part = model.text(ids.to(device), mask.to(device))
            outputs.keep(rows, part.float(), states.float())
            bar.update(len(rows))
    return Encoded(outputs.vectors, outputs.logits, outputs.words)


class _Outputs:
    """What is gathered, batch by batch, while texts are encoded."""

    def __init__(self, model: MultiTaskModel, tokens: Tokens) -> None:
        self.model, self.tokens, rows = model, tokens, len(tokens.ids)
        self.vectors = np.zeros((rows, model.vector_size), np.float32)
        classes = [task for task in model.text_tasks if task.kind is Kind.MULTICLASS]
        self.logits = {task.name: np.zeros((rows, len(task.labels)), np.float32) for task in classes}
        self.words: dict[str, dict[int, FloatArray]] = {
            task.name: {} for task in model.text_tasks if task.kind is Kind.TOKEN
        }

    def keep(self, rows: IntArray, pooled: torch.Tensor, states: torch.Tensor | None) -> None:
        """Keep what pooled states (texts, hidden), and token states where words are asked for, come to."""
        vector = self.model.text.vector(pooled)
        self.vectors[rows] = vector.cpu().numpy()
        found = self.model.text_outputs(pooled.unsqueeze(1) if states is None else states, vector)
        for name, logits in self.logits.items():
            logits[rows] = found[name].float().cpu().numpy()
        if states is not None:
            for name, words in self.words.items():
                words.update(pick_words(self.tokens, rows, found[name].float().cpu().numpy()))


def pick_words(tokens: Tokens, rows: IntArray, outputs: npt.NDArray[np.float32]) -> dict[int, FloatArray]:
    """Return row -> (words, labels): each word takes the logits of its first token, zeros where it was cut."""
    found = {}
    for place, row in enumerate(rows):
        first = tokens.words[row]
        if len(first):
            found[int(row)] = np.where(first[:, None] >= 0, outputs[place][first], 0).astype(np.float32)
    return found


def save_encoded(encoded: Encoded, path: Path) -> None:
    """Write what was encoded to one .npz, atomically, without pickle."""
    arrays: dict[str, Any] = {"vectors": encoded.vectors}
    arrays |= {f"class:{name}": values for name, values in encoded.logits.items()}
    for name, found in encoded.word_logits.items():
        rows = sorted(found)
        arrays[f"words:{name}:rows"] = np.array(rows, np.int64)
        arrays[f"words:{name}:counts"] = np.array([len(found[row]) for row in rows], np.int64)
        arrays[f"words:{name}:values"] = np.concatenate([found[row] for row in rows]) if rows else np.zeros((0, 1))
    part = path.with_name("part-" + path.name)
    np.savez(part, **arrays)
    part.replace(path)


def load_encoded(path: Path) -> Encoded:
    """Read what `save_encoded` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        classes = {key.removeprefix("class:"): stored[key] for key in stored.files if key.startswith("class:")}
        words: dict[str, dict[int, FloatArray]] = {}
        for key in stored.files:
            if key.startswith("words:") and key.endswith(":rows"):
                name = key.split(":")[1]
                cuts = np.cumsum(stored[f"words:{name}:counts"])[:-1]
                parts = np.split(stored[f"words:{name}:values"], cuts)
                words[name] = dict(zip(stored[key].tolist(), parts, strict=False))  # no rows still make one part
        return Encoded(stored["vectors"], classes, words)
