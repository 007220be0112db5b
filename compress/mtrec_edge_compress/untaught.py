"""What the student would be without a teacher: the same shape and start, trained on labels alone.

"99 % of the teacher" may only mean an easy task; the distance to this model is what distillation gained. It starts from
the pretrained encoder as the teacher did, loses the same heads and units, and learns with the teacher's own loss.
"""

import json
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import PartialState

from mtrec_edge_compress.compact import CompactBert, narrow_words
from mtrec_edge_compress.cores import every_core
from mtrec_edge_compress.encoding import encode_all
from mtrec_edge_compress.job import Job
from mtrec_edge_compress.ledger import Row
from mtrec_edge_compress.measure import torch_row
from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_compress.prune import KEPT, remove_again
from mtrec_edge_compress.start import new_student
from mtrec_edge_compress.student_training import of_student
from mtrec_edge_compress.teacher import labels_learner, new_teacher, teacher_batches
from mtrec_edge_compress.training import fit


def train_untaught(job: Job, folder: Path) -> list[Row]:
    """Train the shipped student's shape without the teacher; return its row of the ledger, on the main process."""
    model, settings = untrained(job), of_student(job.recipe.untaught.training, job.device)
    source = replace(teacher_batches(job.recipe, job.arrays, job.student_tokens, job.collaboration), settings=settings)
    fit(
        labels_learner(job.recipe, model, source),
        source,
        settings,
        folder=folder,
        validate=job.validator(job.student_tokens, settings.precision),
        device=job.device,
        label="untaught",
        progress=job.progress,
    )
    if not PartialState().is_main_process:
        return []
    with every_core():
        encoded = encode_all(model.cpu(), job.student_tokens, device=torch.device("cpu"), progress=job.progress)
        return [torch_row(job, "untaught", model, encoded, folder)]


def untrained(job: Job) -> MultiTaskModel:
    """Return a student of the shipped one's shape that has seen no label: the pretrained encoder's start, cut alike."""
    words = job.student_tokenizer
    token_ids = json.loads((job.folder("distill") / "teacher_ids.json").read_text())
    pretrained = new_teacher(job.recipe, job.arrays, job.encoder)
    model = new_student(job.recipe, pretrained, token_ids, ends=(token_ids[words.start], token_ids[words.end]))
    backbone = model.text.backbone
    assert isinstance(backbone, CompactBert)
    number = 0 if job.prune_undone else job.recipe.prune.rounds
    rounds = [job.folder("prune") / f"round-{done}" / KEPT for done in range(1, number + 1)]
    if rounds and job.recipe.prune.embedding_size:
        narrow_words(backbone, job.recipe.prune.embedding_size)
    remove_again(backbone, job.folder("distill") / KEPT, *rounds)
    return model
