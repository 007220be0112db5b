"""The ledger's rows: the size and quality of a torch model, and of exported graphs as the device runs them."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from mtrec_edge_compress.checkpoint import count_parameters, load_model
from mtrec_edge_compress.data.arrays import FloatArray
from mtrec_edge_compress.data.schema import Fold
from mtrec_edge_compress.encoder_graph import text_heads_in
from mtrec_edge_compress.encoding import Encoded, load_encoded, pick_words, save_encoded
from mtrec_edge_compress.export import ENCODER_FP32, RANKER, export_onnx
from mtrec_edge_compress.graphs import Graphs, Variant
from mtrec_edge_compress.job import Job
from mtrec_edge_compress.ledger import Row, Stage, TaskMetrics
from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_compress.quantize import ENCODER_EXACT, ENCODER_FAST, ENCODER_WEIGHTS
from mtrec_edge_compress.scorer import RankFunction, torch_ranker
from mtrec_edge_compress.unseen import unseen_draws

FILES: dict[Variant, tuple[str, ...]] = {
    "fp32": (ENCODER_FP32, RANKER),
    "fast": (ENCODER_FAST, ENCODER_WEIGHTS, RANKER),
    "exact": (ENCODER_EXACT, ENCODER_WEIGHTS, RANKER),
}

CHOSEN_AMONG: tuple[Stage, ...] = ("teacher", "student", "pruned")  # by what VALIDATION says of them
DRAWN: tuple[Stage, ...] = ("teacher", "int8_fast", "untaught")  # what tiers compare


def torch_row(job: Job, stage: Stage, model: MultiTaskModel, encoded: Encoded, folder: Path) -> Row:
    """Measure a torch model; its size is that of its FP32 graphs, which are written to `folder/onnx`."""
    model.cpu()
    export_onnx(model, folder / "onnx")
    return _row(job, stage, encoded, torch_ranker(model), count_parameters(model), graph_bytes(folder / "onnx", "fp32"))


def graph_row(job: Job, stage: Stage, folder: Path, variant: Variant) -> Row:
    """Measure exported graphs through ONNX Runtime; what they encode is kept as `folder/encoded-VARIANT`."""
    model = load_model(job.student)
    graphs = Graphs(folder, variant, model.outputs)
    encoded = encode_by(graphs, job)
    save_encoded(encoded, folder / f"encoded-{variant}")
    return _row(job, stage, encoded, graphs.rank, count_parameters(model), graph_bytes(folder, variant))


def encode_by(graphs: Graphs, job: Job) -> Encoded:
    """Return what exported graphs make of every corpus row, as `encode_all` does for a torch model."""
    tokens = job.student_tokens
    raw = graphs.encode(tokens.ids)
    words: dict[str, dict[int, FloatArray]] = {name: {} for name in raw.token_logits}
    for name, rows in raw.token_logits.items():
        for row, logits in enumerate(rows):
            words[name].update(pick_words(tokens, np.array([row]), logits[None]))
    return Encoded(raw.vectors, raw.logits, words)


def _row(job: Job, stage: Stage, encoded: Encoded, rank: RankFunction, parameters: int, size_bytes: int) -> Row:
    """Judge on the TEST fold, and again with the teacher's vectors in the catalogue (not the teacher itself)."""
    found = job.judge(encoded, rank, drawn=stage in DRAWN)
    known: TaskMetrics = {}
    catalogue = None
    if stage not in ("teacher", "untaught"):  # the latter's vectors lie in a space of its own
        catalogue = teachers_catalogue(job, encoded)
        known = job.judge(encoded, rank, catalogue=catalogue).tasks
    draws = unseen_draws(found, job.arrays.tasks)
    row = Row(stage, parameters, size_bytes, found.tasks, found.chance, found.counts, known, draws)
    if stage not in CHOSEN_AMONG:
        return row
    chosen_by = job.judge(encoded, rank, catalogue=catalogue, fold=Fold.VALIDATION)
    return replace(row, validation=chosen_by.tasks, validation_chance=chosen_by.chance)


def teachers_catalogue(job: Job, encoded: Encoded) -> FloatArray:
    """Return the teacher's item vectors; those of strict cold items are the encoder's own.

    Such items stand for items first met on the device.
    """
    catalogue = load_encoded(job.folder("teacher") / "encoded").vectors
    cold = np.flatnonzero(job.arrays.cold)
    catalogue[cold] = encoded.vectors[cold]
    return catalogue


def graph_bytes(folder: Path, variant: Variant) -> int:
    """Return the size of a variant's encoder, text heads (where there are any) and ranker as files."""
    paths = [*(folder / name for name in FILES[variant]), *text_heads_in(folder)]
    return sum(path.stat().st_size for path in paths)
