"""The nine stages: each reads the folders of those before it, writes its own, and returns rows of the ledger.

Knows nothing of their order, of resuming or of settings that changed: see pipeline.py.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from tqdm import tqdm

from mtrec_edge_compress.agreement import make_pool
from mtrec_edge_compress.bundle import Card, write_bundle
from mtrec_edge_compress.calibration import fit_temperatures
from mtrec_edge_compress.checkpoint import load_model, save_model
from mtrec_edge_compress.collaboration import fit_collaboration, save_collaboration
from mtrec_edge_compress.data.arrays import FloatArray
from mtrec_edge_compress.distill import StudentLearner, distill, new_student, soft_targets, student_learner
from mtrec_edge_compress.encoding import encode_all, load_encoded, save_encoded
from mtrec_edge_compress.export import export_onnx
from mtrec_edge_compress.graphs import Graphs
from mtrec_edge_compress.job import COLLABORATION, Job
from mtrec_edge_compress.label_agreement import label_agreement
from mtrec_edge_compress.latency import measure_latencies, read_latencies
from mtrec_edge_compress.ledger import Ledger, Row, Stage, make_ledger
from mtrec_edge_compress.measure import graph_row, torch_row
from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_compress.onnx_graph import byte_ledger
from mtrec_edge_compress.prune import compact_backbone, prune
from mtrec_edge_compress.quantize import ENCODER_FAST, quantize
from mtrec_edge_compress.teacher import teacher_batches, train_teacher
from mtrec_edge_compress.text_labels import TextLabels
from mtrec_edge_compress.tokens import vocabulary_of
from mtrec_edge_compress.verify import INT8_STAGES, Verdict, verify
from mtrec_edge_compress.vocabulary import trim_vocabulary

CALIBRATION_TEXTS = 1024  # that show what activations are like

Made = tuple[list[Row], dict[str, Any]]  # rows of the ledger, facts


def collaborate(job: Job, folder: Path) -> Made:
    """Find what users did together."""
    found, chosen = fit_collaboration(
        job.arrays,
        job.recipe.collaborate,
        seed=job.recipe.seed,
        progress=lambda line: tqdm.write(line, file=sys.stderr) if job.progress else None,
    )
    save_collaboration(found, job.work / COLLABORATION)
    return [], {f"collaboration_{domain}": setting for domain, setting in chosen.items()}


def teach(job: Job, folder: Path) -> Made:
    """Train the teacher (or take the given one), encode every text with it."""
    if job.teacher is not None:
        model = load_model(job.teacher)
    else:
        model, _ = train_teacher(
            job.recipe,
            teacher_batches(job.recipe, job.arrays, job.teacher_tokens, job.collaboration),
            job.encoder,
            folder=folder / "training",
            validate=job.validator(job.teacher_tokens, job.recipe.teacher.training.precision),
            device=job.device,
            progress=job.progress,
        )
    if not PartialState().is_main_process:
        return [], {}
    save_model(model, folder / "model")
    encoded = encode_all(
        model.to(job.place), job.teacher_tokens, device=job.place, label="soft targets", progress=job.progress
    )
    save_encoded(encoded, folder / "encoded.npz")
    return [torch_row(job, "teacher", model, encoded, folder)], {}


def distill_student(job: Job, folder: Path) -> Made:
    """Trim the vocabulary, start the student, distill it."""
    facts = {}
    if PartialState().is_main_process:
        facts = _write_vocabulary(job, folder)
    PartialState().wait_for_everyone()
    learner = _student_learner(job, None)
    distill(
        job.recipe,
        learner,
        job.arrays,
        job.collaboration,
        folder=folder,
        validate=job.validator(job.student_tokens, job.recipe.distill.tasks.precision),
        device=job.device,
        progress=job.progress,
    )
    return _student_rows(job, "student", learner.model, folder), facts


def _write_vocabulary(job: Job, folder: Path) -> dict[str, Any]:
    settings = job.recipe.student
    vocabulary = vocabulary_of(job.recipe.student.encoder or job.encoder)
    trimmed = trim_vocabulary(
        vocabulary,
        job.arrays,
        size=settings.vocabulary,
        min_count=settings.min_count,
        max_tokens=job.recipe.model.max_tokens,
    )
    (folder / "vocab.txt").write_text("\n".join(trimmed.tokens) + "\n", encoding="utf-8")
    (folder / "teacher_ids.json").write_text(json.dumps(trimmed.teacher_ids))
    return {
        "vocabulary": f"{len(trimmed.tokens):,} of {len(vocabulary):,} tokens",
        "unknown_rate": f"{trimmed.unknown_rate:.4%} (teacher {trimmed.teacher_unknown_rate:.4%})",
        "token_growth": f"{trimmed.growth:.3f}",
    }


def _student_learner(job: Job, model: MultiTaskModel | None) -> StudentLearner:
    """Return the learner over a student: the given one, or a new one."""
    teacher = load_model(job.work / "teacher/model")
    if model is None:
        model = new_student(job.recipe, teacher, json.loads((job.work / "distill/teacher_ids.json").read_text()))
    soft = soft_targets(teacher, load_encoded(job.work / "teacher/encoded.npz"), job.arrays, job.place)
    return student_learner(job.recipe, model, job.arrays, job.student_tokens, soft)


def _student_rows(job: Job, stage: Stage, model: MultiTaskModel, folder: Path) -> list[Row]:
    """Save the student and measure it, on the main process."""
    if not PartialState().is_main_process:
        return []
    save_model(model, folder / "model")
    encoded = encode_all(
        model.cpu(), job.student_tokens, device=torch.device("cpu"), label=f"encoding: {stage}", progress=job.progress
    )
    return [torch_row(job, stage, model, encoded, folder)]


def prune_student(job: Job, folder: Path) -> Made:
    """Prune and heal the student."""
    learner = _student_learner(job, load_model(job.work / "distill/model"))
    prune(
        job.recipe,
        learner,
        job.arrays,
        job.collaboration,
        folder=folder,
        validate=job.validator(job.student_tokens, job.recipe.prune.tasks.precision),
        device=job.device,
        progress=job.progress,
    )
    shapes = compact_backbone(learner).shape.layers
    layers = ", ".join(f"{heads} heads {units} units" for heads, units in shapes)
    return _student_rows(job, "pruned", learner.model, folder), {"pruned_layers": layers}


def export_graphs(job: Job, folder: Path) -> Made:
    """Export the pruned student as FP32 ONNX."""
    export_onnx(load_model(job.work / "prune/model"), folder)
    return [graph_row(job, "onnx_fp32", folder, "fp32")], {}


def quantize_graphs(job: Job, folder: Path) -> Made:
    """Make the two INT8 profiles."""
    readable = TextLabels(job.arrays).pool(every_text=True)
    chosen = np.random.default_rng(job.recipe.seed).permutation(readable)[:CALIBRATION_TEXTS]
    texts = [job.student_tokens.ids[row] for row in chosen]
    facts = quantize(job.work / "export", folder, texts, job.recipe.quantize)
    rows = [graph_row(job, "int8_fast", folder, "fast"), graph_row(job, "int8_exact", folder, "exact")]
    return rows, {"bytes": byte_ledger(folder / ENCODER_FAST)} | facts


def verify_graphs(job: Job, folder: Path) -> Made:
    """Compare torch, FP32 and INT8; measure every stage's latency in one window."""
    arrays, settings, limits = job.arrays, job.recipe.model, job.recipe.verify
    fp32 = load_encoded(job.work / "export/fp32.npz")
    pools = [
        make_pool(
            arrays,
            job.student_tokens.ids,
            domain,
            neighbours=job.collaboration.whole,
            max_history=settings.max_history,
            candidates=limits.pool,
            seed=job.recipe.seed,
        )
        for domain in sorted({task.domain for task in arrays.tasks if task.device_task().pairwise})
    ]
    verdict = verify(
        load_model(job.work / "prune/model"),
        fp32=job.work / "export",
        int8=job.work / "quantize",
        pools=pools,
        evaluations={row.stage: row.evaluation(job.recipe.bundle.catalogue) for row in job.rows},
        labels={
            profile: label_agreement(fp32, load_encoded(job.work / f"quantize/{profile}.npz"), arrays)
            for profile in INT8_STAGES
        },
        vocabulary=len((job.work / "distill/vocab.txt").read_text(encoding="utf-8").splitlines()),
        max_tokens=settings.max_tokens,
        limits=limits,
    )
    (folder / "verdict.json").write_text(json.dumps(asdict(verdict), indent=1))
    (folder / "latency.json").write_text(json.dumps(measure_latencies(job.work, settings.max_tokens)))
    not_judged = verdict.measured["without_retention"]
    return [], {"teacher_no_better_than_chance": ", ".join(not_judged)} if not_judged else {}


def calibrate(job: Job, folder: Path) -> Made:
    """Fit the temperatures of the probabilities that ship: profile `fast`, the bundle's item vectors."""
    graphs = Graphs(job.work / "quantize", "fast", threads=torch.get_num_threads())
    scorer = job.scorer(load_encoded(job.work / "quantize/fast.npz"), graphs.rank, catalogue=_catalogue(job))
    users = job.recipe.evaluation.users_per_domain or None
    found = fit_temperatures(scorer, job.arrays, users_per_domain=users, seed=job.recipe.seed)
    (folder / "temperatures.json").write_text(json.dumps(found))
    return [], {f"temperature of {task}": f"{value:.3f}" for task, value in found.items()}


def read_verdict(job: Job) -> Verdict:
    """Return what `verify_graphs` found."""
    stored = json.loads((job.work / "verify/verdict.json").read_text())
    return Verdict(stored["certified"], tuple(stored["reasons"]), stored["measured"])


def ledger_so_far(job: Job) -> Ledger:
    """Return the ledger of the stages that are done."""
    return make_ledger(job.recipe.name, job.records, read_latencies(job.work / "verify/latency.json"))


def _catalogue(job: Job) -> FloatArray:
    """Return the item vectors (items, D) that ship."""
    made_by = "teacher/encoded.npz" if job.recipe.bundle.catalogue == "teacher" else "quantize/exact.npz"
    return load_encoded(job.work / made_by).vectors[: len(job.arrays.item_ids)]


def bundle_up(job: Job, folder: Path) -> Made:
    """Write the bundle to `job.out`."""
    recipe = job.recipe
    result = ledger_so_far(job).as_result(job.arrays, command=["mtrec-edge", "compress"], seed=recipe.seed)
    shipped = next(row for row in job.rows if row.stage == "int8_fast")
    card = Card(
        name=recipe.name,
        seed=recipe.seed,
        max_tokens=recipe.model.max_tokens,
        max_history=recipe.model.max_history,
        catalogue=recipe.bundle.catalogue,
        stages=tuple({"stage": stage, **measured} for stage, measured in result["stages"].items()),
        quality=shipped.evaluation(recipe.bundle.catalogue).tasks,
    )
    write_bundle(
        job.out,
        graphs=job.work / "quantize",
        vocabulary=job.work / "distill/vocab.txt",
        arrays=job.arrays,
        vectors=_catalogue(job),
        neighbours=job.collaboration.whole,
        temperatures=json.loads((job.work / "calibrate/temperatures.json").read_text()),
        card=card,
        verdict=read_verdict(job),
    )
    return [], {"bundle_bytes": sum(path.stat().st_size for path in job.out.rglob("*") if path.is_file())}
