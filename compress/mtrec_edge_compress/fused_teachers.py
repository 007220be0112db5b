"""The teachers beside the first, in the folder of stage `teacher`: each one's model, outputs and temperatures.

fused/N/model, fused/N/encoded   of each teacher after the first
fused/temperatures.json          of each teacher, the first too
fused/soft                       what all of them say of every text together
"""

import json
from pathlib import Path

import torch

from mtrec_edge_compress.checkpoint import load_model, save_model
from mtrec_edge_compress.encoding import Encoded, encode_all, load_encoded, save_encoded
from mtrec_edge_compress.fusion import (
    FusedPairs,
    PairTeacher,
    calibrated,
    check_alike,
    fuse_encoded,
    pair_temperatures,
    text_temperatures,
)
from mtrec_edge_compress.job import Job
from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_compress.scorer import torch_ranker


def fuse_teachers(job: Job, model: MultiTaskModel, encoded: Encoded, folder: Path) -> None:
    """Encode every text with the other teachers, calibrate all and write their common word to `folder`.

    Raises:
        StageError: a teacher cannot be fused with the first; the message says why.
    """
    others = [load_model(path) for path in job.teachers[1:]]
    check_alike([model, *others], list(map(str, job.teachers)))
    temperatures, parts = [], []
    for number, teacher in enumerate([model, *others]):
        if number:
            save_model(teacher, folder / str(number) / "model")
            encoded = encode_all(
                teacher.to(job.place),
                job.teacher_tokens,
                device=job.place,
                label=f"soft targets {number + 1}",
                progress=job.progress,
            )
            save_encoded(encoded, folder / str(number) / "encoded")
        found = text_temperatures(encoded, job.arrays) | pair_temperatures(
            job.scorer(encoded, torch_ranker(teacher)),
            job.arrays,
            users_per_domain=job.recipe.evaluation.validation_users or None,
            seed=job.recipe.seed,
        )
        temperatures.append(found)
        parts.append(calibrated(encoded, found))
    (folder / "temperatures.json").write_text(json.dumps(temperatures, indent=1))
    save_encoded(fuse_encoded(parts), folder / "soft")


def first_calibrated(folder: Path, encoded: Encoded) -> Encoded:
    """Return what the first teacher encoded of other texts as `fuse_teachers` calibrated it."""
    return calibrated(encoded, json.loads((folder / "temperatures.json").read_text())[0])


def load_fused(
    folder: Path, teacher: MultiTaskModel, encoded: Encoded, device: torch.device
) -> tuple[Encoded, FusedPairs]:
    """Return what `fuse_teachers` wrote: the common outputs of every text, and the teachers of pairs."""
    teachers = []
    for number, found in enumerate(json.loads((folder / "temperatures.json").read_text())):
        own = folder / str(number)
        model, texts = (load_model(own / "model"), load_encoded(own / "encoded")) if number else (teacher, encoded)
        vectors = torch.from_numpy(texts.vectors).to(device)
        teachers.append(PairTeacher(model.to(device).eval(), vectors, found))
    return load_encoded(folder / "soft"), FusedPairs(tuple(teachers))
