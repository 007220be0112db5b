"""`cross_encoder`: train a cross-encoder, compare it with the tower, keep its word on a sample of TRAIN pairs.

training/          its checkpoints
comparison.json    what cross_comparison.py measured
pairs/             what cross_pairs.py describes
"""

import json
from pathlib import Path
from typing import Any

from accelerate import PartialState

from mtrec_edge_compress.checkpoint import load_model
from mtrec_edge_compress.cores import every_core
from mtrec_edge_compress.cross_comparison import as_facts, compare
from mtrec_edge_compress.cross_encoder import CrossBatches, CrossModel, Reader, cross_batches, train_cross_encoder
from mtrec_edge_compress.cross_pairs import CrossPairs, load_cross_pairs, save_cross_pairs, score_windows
from mtrec_edge_compress.encoding import load_encoded
from mtrec_edge_compress.job import Job
from mtrec_edge_compress.ledger import Row
from mtrec_edge_compress.scorer import torch_ranker

PAIRS, COMPARISON = "pairs", "comparison.json"


def teach_cross_encoder(job: Job, folder: Path) -> tuple[list[Row], dict[str, Any]]:
    """Run the stage; it adds no row to the ledger, for a cross-encoder never ships."""
    recipe = job.recipe
    source = cross_batches(recipe, job.arrays, job.teacher_tokens, job.collaboration)
    model, reader = train_cross_encoder(
        recipe, source, job.encoder, folder=folder / "training", device=job.device, progress=job.progress
    )
    return [], _asked(job, folder, model, reader, source) if PartialState().is_main_process else {}


@every_core()
def _asked(job: Job, folder: Path, model: CrossModel, reader: Reader, source: CrossBatches) -> dict[str, Any]:
    """Compare it with the tower, ask it about a sample of pairs; return what the comparison says."""
    recipe, settings = job.recipe, job.recipe.cross_encoder
    model.to(job.place)
    tower = load_model(job.folder("teacher") / "model").to(job.place)
    comparison = compare(
        job.scorer(load_encoded(job.folder("teacher") / "encoded"), torch_ranker(tower)),
        model,
        reader,
        job.arrays,
        candidates=settings.candidates,
        users_per_domain=recipe.evaluation.validation_users or None,
        seed=recipe.seed,
    )
    (folder / COMPARISON).write_text(json.dumps(comparison, indent=1))
    pairs = score_windows(model, reader, source, windows=settings.windows, progress=job.progress)
    save_cross_pairs(pairs, folder / PAIRS)
    return as_facts(comparison)


def scored_pairs(job: Job) -> CrossPairs | None:
    """Return what the student learns of the cross-encoder, None where the recipe asks for nothing."""
    settings = job.recipe.cross_encoder
    return load_cross_pairs(job.folder("cross_encoder") / PAIRS) if settings.windows and settings.share else None
