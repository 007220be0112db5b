"""`distill`: a student learns the teacher's item vectors on all texts, then its task outputs on texts and pairs."""

from pathlib import Path

import torch

from mtrec_edge_compress.device import open_device
from mtrec_edge_compress.encoding import encode_pooled
from mtrec_edge_compress.representation import Representation
from mtrec_edge_compress.start import fit_projection
from mtrec_edge_compress.student_learner import compact_backbone
from mtrec_edge_compress.student_training import StudentTraining
from mtrec_edge_compress.training import Validate
from mtrec_edge_compress.unread import read_texts


def distill(training: StudentTraining, *, folder: Path, validate: Validate) -> dict[str, float]:
    """Train the student: all texts first, then texts and pairs; return the validation metrics of the second phase."""
    recipe, learner = training.recipe, training.learner
    settings = recipe.distill
    if recipe.student.start == "outputs":
        _start_projection(training)
    if settings.relation_weight or settings.hidden_weight:
        backbone = compact_backbone(learner)
        longest = recipe.model.max_tokens
        learner.inside = Representation(backbone, learner.soft.teacher, learner.soft.tokens, learner.tokens, longest)
    training.fit(settings.represent, with_pairs=False, folder=folder / "represent", label="represent")
    if learner.inside is not None:
        learner.inside.close()
        learner.inside = None
    return training.fit(settings.tasks, with_pairs=True, folder=folder / "tasks", label="tasks", validate=validate)


def _start_projection(training: StudentTraining) -> None:
    """Fit the projection of a student that has learned nothing yet to the teacher's vectors of what it reads."""
    learner, device = training.learner, open_device(training.device)
    rows = torch.from_numpy(read_texts(training.arrays, training.unread)).to(device)
    pooled = encode_pooled(learner.model.to(device), learner.tokens, device, torch.float32)
    fit_projection(learner.model, pooled[rows].cpu(), learner.soft.vectors[rows].cpu())
