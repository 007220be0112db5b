"""Encode every text of a dataset once, without gradients: the vector cache, evaluation and the catalogue use it."""

import json
import shutil
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import PartialState
from tqdm import tqdm

from mtrec_edge_compress.data.arrays import FloatArray, IntArray
from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_compress.padding import RUN_TOKENS, length_batches
from mtrec_edge_compress.tokens import Tokens
from mtrec_edge_runtime.errors import StageError
from mtrec_edge_runtime.tasks import Kind

INDEX = "index.json"  # of a folder of encoder outputs


@dataclass(frozen=True)
class Encoded:
    """What an encoder makes of every corpus row."""

    vectors: FloatArray  # (rows, D) unit item vectors
    logits: dict[str, FloatArray]  # multiclass task -> (rows, labels)
    word_logits: dict[str, dict[int, FloatArray]]  # token task -> corpus row -> (words, labels)


def joined(first: Encoded, second: Encoded) -> Encoded:
    """Return the rows of both, the second's behind; in memory, unless there are none."""
    rows = len(first.vectors)
    if not len(second.vectors):
        return first
    return Encoded(
        np.concatenate([first.vectors, second.vectors]),
        {name: np.concatenate([logits, second.logits[name]]) for name, logits in first.logits.items()},
        {
            name: {**words, **{rows + row: logits for row, logits in second.word_logits[name].items()}}
            for name, words in first.word_logits.items()
        },
    )


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
    """Return the pooled states (rows, hidden) of every text, on `device`, 0 of one without tokens.

    Several processes share the texts.
    """
    was_training, processes = model.training, PartialState()
    model.eval()
    pooled = torch.zeros(len(tokens.ids), model.hidden_size, device=device)
    shown = tokens.shown
    batches = length_batches(tokens.lengths[shown])
    for batch in islice(batches, processes.process_index, None, processes.num_processes):
        rows = shown[batch]
        ids, mask = tokens.padded(rows)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            _, part = model.text(ids.to(device), mask.to(device))
        pooled[torch.from_numpy(rows).to(device)] = part.float()
    if processes.num_processes > 1:
        torch.distributed.all_reduce(pooled)  # what another process encoded is 0 here
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
    """Return every output of the model's text side for every corpus row, 0 for one without tokens.

    `pooled` (rows, hidden) is what `encode_pooled` gave for the same weights, where that is at hand: only texts whose
    words are labelled are then encoded again.
    """
    model.eval()
    outputs = _Outputs(model, tokens)
    rest = tokens.shown
    if pooled is not None:
        worded = np.array([len(tokens.words[row]) > 0 for row in rest], bool) & bool(outputs.words)
        known, rest = rest[~worded], rest[worded]
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


def save_encoded(encoded: Encoded, folder: Path) -> None:
    """Write what was encoded as a folder of .npy files and `index.json`, whole or not at all, without pickle."""
    part = folder.with_name("part-" + folder.name)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    np.save(part / "vectors.npy", encoded.vectors)
    for number, values in enumerate(encoded.logits.values()):
        np.save(part / f"class-{number}.npy", values)
    for number, found in enumerate(encoded.word_logits.values()):
        rows = sorted(found)
        np.save(part / f"words-{number}-rows.npy", np.array(rows, np.int64))
        np.save(part / f"words-{number}-counts.npy", np.array([len(found[row]) for row in rows], np.int64))
        values = np.concatenate([found[row] for row in rows]) if rows else np.zeros((0, 1), np.float32)
        np.save(part / f"words-{number}-values.npy", values)
    index = {"classes": list(encoded.logits), "words": list(encoded.word_logits)}  # a task's name may be no file name
    (part / INDEX).write_text(json.dumps(index))
    shutil.rmtree(folder, ignore_errors=True)
    part.replace(folder)


def load_encoded(folder: Path) -> Encoded:
    """Map what `save_encoded` wrote: it is read from disk when it is used, and a write stays in memory, page by page.

    Raises:
        StageError: there is no such folder.
    """
    if not (folder / INDEX).is_file():
        raise StageError(
            f"{folder} holds no outputs of an encoder; the next step: delete {folder.parent / 'stage.json'} and run "
            "again, which encodes the texts anew and trains nothing twice"
        )
    index = json.loads((folder / INDEX).read_text())
    classes = {name: _mapped(folder / f"class-{number}.npy") for number, name in enumerate(index["classes"])}
    words: dict[str, dict[int, FloatArray]] = {}
    for number, name in enumerate(index["words"]):
        rows, counts, values = (_mapped(folder / f"words-{number}-{part}.npy") for part in ("rows", "counts", "values"))
        parts = np.split(values, np.cumsum(counts)[:-1])
        words[name] = dict(zip(rows.tolist(), parts, strict=False))  # no rows still make one part
    return Encoded(_mapped(folder / "vectors.npy"), classes, words)


def _mapped(path: Path) -> Any:
    """Return a .npy file as an array over its pages; copied on write, so that torch may take it as it is."""
    return np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))
