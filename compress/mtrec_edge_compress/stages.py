"""The stages: each reads the folders of those before it, writes its own, and returns rows of the ledger.

Knows nothing of their order, of resuming or of settings that changed: see pipeline.py.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from tqdm import tqdm

from mtrec_edge_compress.agreement import make_pool
from mtrec_edge_compress.bundle import Card, device_bytes, write_bundle
from mtrec_edge_compress.calibration import fit_temperatures
from mtrec_edge_compress.checkpoint import load_model, save_model
from mtrec_edge_compress.collaboration import fit_collaboration, save_collaboration
from mtrec_edge_compress.cores import every_core
from mtrec_edge_compress.cross_teacher import scored_pairs
from mtrec_edge_compress.data.arrays import FloatArray
from mtrec_edge_compress.distill import distill
from mtrec_edge_compress.encoder_graph import text_heads_in
from mtrec_edge_compress.encoding import encode_all, joined, load_encoded, model_dtype, save_encoded
from mtrec_edge_compress.export import export_onnx
from mtrec_edge_compress.extra_texts import ExtraText, cross_texts, save_extra, without_corpus
from mtrec_edge_compress.fused_teachers import first_calibrated, fuse_teachers, load_fused
from mtrec_edge_compress.graphs import Graphs
from mtrec_edge_compress.heal_int8 import heal
from mtrec_edge_compress.job import COLLABORATION, EXTRA_TEXTS, PRUNING_LATENCY, Job
from mtrec_edge_compress.label_agreement import label_agreement
from mtrec_edge_compress.latency import measure_latencies, read_latencies
from mtrec_edge_compress.ledger import Ledger, Row, Stage, make_ledger
from mtrec_edge_compress.measure import graph_row, torch_row
from mtrec_edge_compress.model import MultiTaskModel, ranker_outputs
from mtrec_edge_compress.nearness import nearness
from mtrec_edge_compress.onnx_graph import byte_ledger
from mtrec_edge_compress.prune import cut_to_start, prune
from mtrec_edge_compress.quantize import ENCODER_FAST, quantize
from mtrec_edge_compress.soft_targets import soft_targets
from mtrec_edge_compress.standing import measure_standing
from mtrec_edge_compress.start import new_student
from mtrec_edge_compress.student_learner import compact_backbone, student_learner
from mtrec_edge_compress.student_training import StudentTraining, of_student
from mtrec_edge_compress.teacher import check_given, teacher_batches, train_teacher
from mtrec_edge_compress.tokens import open_tokenizer, vocabulary_of, words_known
from mtrec_edge_compress.unlabelled import read_unlabelled
from mtrec_edge_compress.unread import read_texts
from mtrec_edge_compress.untaught import train_untaught
from mtrec_edge_compress.verify import INT8_STAGES, Verdict, verify
from mtrec_edge_compress.vocabulary import trim_vocabulary
from mtrec_edge_runtime.integrity import hash_file
from mtrec_edge_runtime.whole_file import write_whole

Made = tuple[list[Row], dict[str, Any]]  # rows of the ledger, facts


def collaborate(job: Job, folder: Path) -> Made:
    """Find what users did together."""
    found, chosen = fit_collaboration(
        job.arrays,
        job.recipe.collaborate,
        seed=job.recipe.seed,
        progress=lambda line: tqdm.write(line, file=sys.stderr) if job.progress else None,
    )
    save_collaboration(found, job.shared_work / COLLABORATION)
    return [], {f"collaboration_{domain}": setting for domain, setting in chosen.items()}


def teach(job: Job, folder: Path) -> Made:
    """Train the teacher (or take the given one), encode every text with it."""
    pooled = None
    if job.teachers:
        model = load_model(job.teachers[0])
        check_given(model, job.teachers[0], job.recipe, job.arrays, words=words_known(open_tokenizer(job.encoder)))
    else:
        trained = train_teacher(
            job.recipe,
            teacher_batches(job.recipe, job.arrays, job.teacher_tokens, job.collaboration),
            job.encoder,
            folder=folder / "training",
            validate=job.validator(job.teacher_tokens, job.recipe.teacher.training.precision),
            device=job.device,
            progress=job.progress,
        )
        model, pooled = trained.model, trained.pooled
    if not PartialState().is_main_process:
        return [], {}
    save_model(model, folder / "model")
    with every_core():
        encoded = encode_all(
            model.to(job.place),
            job.teacher_tokens,
            device=job.place,
            pooled=pooled,
            label="soft targets",
            progress=job.progress,
        )
        save_encoded(encoded, folder / "encoded")
        if len(job.teachers) > 1:
            fuse_teachers(job, model, encoded, folder / "fused")
        return [torch_row(job, "teacher", model, encoded, folder)], {}


def augment_texts(job: Job, folder: Path) -> Made:
    """Make texts beyond the corpus and ask the teacher what it says of them."""
    settings, seed = job.recipe.augment, job.recipe.seed
    unlabelled = read_unlabelled(settings.unlabelled, most=settings.most_unlabelled, seed=seed)
    crossed = cross_texts(job.arrays, job.unread, share=settings.crossed, seed=seed)
    extra = (*crossed, *without_corpus(job.arrays, (ExtraText(text, (), "", "") for text in unlabelled)))
    save_extra(extra, folder / EXTRA_TEXTS)
    tokens = job.tokens_of_extra(open_tokenizer(job.encoder))
    encoded = encode_all(
        load_model(job.folder("teacher") / "model").to(job.place),
        tokens,
        device=job.place,
        dtype=model_dtype(job.place, job.recipe.teacher.training.precision),
        label="soft targets of extra texts",
        progress=job.progress,
    )
    save_encoded(encoded, folder / "encoded")
    return [], {"extra_texts": f"{len(crossed):,} crossed, {len(extra) - len(crossed):,} unlabelled"}


def distill_student(job: Job, folder: Path) -> Made:
    """Trim the vocabulary, start the student, distill it."""
    facts = {}
    if PartialState().is_main_process:
        facts = _write_vocabulary(job, folder)
    PartialState().wait_for_everyone()
    training = _student_training(job, None)
    cut_to_start(training, folder)
    precision = of_student(job.recipe.distill.tasks, job.device).precision
    distill(training, folder=folder, validate=job.validator(job.student_tokens, precision))
    rows, near = _student_made(job, "student", training.learner.model, folder)
    return rows, facts | near


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


def _student_training(job: Job, model: MultiTaskModel | None) -> StudentTraining:
    """Return the training of a student: the given one, or a new one."""
    teacher = load_model(job.folder("teacher") / "model")
    if model is None:
        token_ids = json.loads((job.folder("distill") / "teacher_ids.json").read_text())
        words = job.student_tokenizer
        model = new_student(job.recipe, teacher, token_ids, ends=(token_ids[words.start], token_ids[words.end]))
    encoded, pairs = load_encoded(job.folder("teacher") / "encoded"), None
    extra = load_encoded(job.folder("augment") / "encoded")
    if len(job.teachers) > 1:  # of the extra texts the first teacher speaks alone
        fused = job.folder("teacher") / "fused"
        encoded, pairs = load_fused(fused, teacher, encoded, job.place)
        extra = first_calibrated(fused, extra)
    encoded = joined(encoded, extra)
    asked = job.teacher_tokens.followed_by(job.tokens_of_extra(open_tokenizer(job.encoder)))
    soft = soft_targets(
        teacher,
        asked,
        encoded,
        job.arrays,
        job.place,
        extra=job.extra_texts,
        fused=pairs,
        cross=scored_pairs(job),
    )
    reading = job.student_tokens.followed_by(job.tokens_of_extra(job.student_tokenizer))
    learner = student_learner(job.recipe, model, job.arrays, reading, soft)
    return StudentTraining(job.recipe, learner, job.arrays, job.collaboration, job.device, job.progress)


def _student_made(job: Job, stage: Stage, model: MultiTaskModel, folder: Path) -> Made:
    """Save the student and measure it, on the main process: its row, and how near its vectors are to the teacher's."""
    if not PartialState().is_main_process:
        return [], {}
    save_model(model, folder / "model")
    place, tokens = torch.device("cpu"), job.student_tokens
    with every_core():
        encoded = encode_all(model.cpu(), tokens, device=place, label=f"encoding: {stage}", progress=job.progress)
        teacher = load_encoded(job.folder("teacher") / "encoded").vectors
        near = nearness(encoded.vectors, teacher, read_texts(job.arrays, job.unread))
        return [torch_row(job, stage, model, encoded, folder)], {f"{stage}_vectors": near}


def prune_student(job: Job, folder: Path) -> Made:
    """Prune and heal the student."""
    training = _student_training(job, load_model(job.folder("distill") / "model"))
    precision = of_student(job.recipe.prune.tasks, job.device).precision
    prune(training, folder=folder, validate=job.validator(job.student_tokens, precision))
    shapes = compact_backbone(training.learner).shape.layers
    layers = ", ".join(f"{heads} heads {units} units" for heads, units in shapes)
    rows, near = _student_made(job, "pruned", training.learner.model, folder)
    return rows, {"pruned_layers": layers} | near


def time_pruning(job: Job) -> None:
    """Measure, once, the latency of the student before and after pruning: does it pay?"""
    path = job.folder("prune") / PRUNING_LATENCY
    if PartialState().is_main_process and not path.is_file():
        measured = measure_latencies(job.folder, job.recipe.model.max_tokens, ("student", "pruned"))
        write_whole(path, json.dumps(measured))
    PartialState().wait_for_everyone()


def heal_int8(job: Job, folder: Path) -> Made:
    """Train the student with INT8's rounding where INT8 loses too much."""
    healed, facts = heal(job, folder, lambda: _student_training(job, load_model(job.student)))
    rows, near = ([], {}) if healed is None else _student_made(job, "healed", healed, folder)
    return rows, facts | near


def export_graphs(job: Job, folder: Path) -> Made:
    """Export the student that ships as FP32 ONNX."""
    export_onnx(load_model(job.student), folder)
    undone = job.prune_undone
    return [graph_row(job, "onnx_fp32", folder, "fp32")], {"prune undone": undone} if undone else {}


def quantize_graphs(job: Job, folder: Path) -> Made:
    """Make the two INT8 profiles."""
    facts = quantize(job.folder("export"), folder, job.calibration_texts(), job.recipe.quantize)
    rows = [graph_row(job, "int8_fast", folder, "fast"), graph_row(job, "int8_exact", folder, "exact")]
    return rows, {"bytes": byte_ledger(folder / ENCODER_FAST, *text_heads_in(folder))} | facts


def verify_graphs(job: Job, folder: Path) -> Made:
    """Compare torch, FP32 and INT8; measure every stage's latency in one window."""
    arrays, settings, limits = job.arrays, job.recipe.model, job.recipe.verify
    fp32 = load_encoded(job.folder("export") / "encoded-fp32")
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
        load_model(job.student),
        fp32=job.folder("export"),
        int8=job.folder("quantize"),
        pools=pools,
        evaluations={row.stage: row.evaluation(job.recipe.bundle.catalogue) for row in job.rows},
        labels={
            profile: label_agreement(fp32, load_encoded(job.folder("quantize") / f"encoded-{profile}"), arrays)
            for profile in INT8_STAGES
        },
        vocabulary=len((job.folder("distill") / "vocab.txt").read_text(encoding="utf-8").splitlines()),
        max_tokens=settings.max_tokens,
        limits=limits,
        student=job.shipped,
    )
    (folder / "verdict.json").write_text(json.dumps(asdict(verdict), indent=1))
    (folder / "latency.json").write_text(json.dumps(measure_latencies(job.folder, settings.max_tokens)))
    not_judged = verdict.measured["without_retention"]
    return [], {"not judged, or the teacher is no better than chance": ", ".join(not_judged)} if not_judged else {}


def calibrate(job: Job, folder: Path) -> Made:
    """Fit the temperatures of the probabilities that ship: profile `fast`, the bundle's item vectors."""
    graphs = Graphs(job.folder("quantize"), "fast", ranker_outputs(job.arrays.tasks))
    scorer = job.scorer(load_encoded(job.folder("quantize") / "encoded-fast"), graphs.rank, catalogue=_catalogue(job))
    users = job.recipe.evaluation.users_per_domain or None
    found = fit_temperatures(scorer, job.arrays, users_per_domain=users, seed=job.recipe.seed)
    (folder / "temperatures.json").write_text(json.dumps(found))
    return [], {f"temperature of {task}": f"{value:.3f}" for task, value in found.items()}


def learn_untaught(job: Job, folder: Path) -> Made:
    """Train the student's shape without the teacher, where the recipe asks for the comparison."""
    return (train_untaught(job, folder), {}) if job.recipe.untaught.compare else ([], {})


def read_verdict(job: Job) -> Verdict:
    """Return what `verify_graphs` found."""
    stored = json.loads((job.folder("verify") / "verdict.json").read_text())
    return Verdict(stored["certified"], tuple(stored["reasons"]), stored["measured"])


def ledger_so_far(job: Job) -> Ledger:
    """Return the ledger of the stages that are done."""
    return make_ledger(job.recipe.name, job.records, read_latencies(job.folder("verify") / "latency.json"))


def _catalogue(job: Job) -> FloatArray:
    """Return the item vectors (items, D) that ship."""
    by_teacher = job.recipe.bundle.catalogue == "teacher"
    made = job.folder("teacher") / "encoded" if by_teacher else job.folder("quantize") / "encoded-exact"
    return load_encoded(made).vectors[: len(job.arrays.item_ids)]


def bundle_up(job: Job, folder: Path) -> Made:
    """Judge the student by its budget and write the bundle to `job.out`."""
    recipe = job.recipe
    standing = measure_standing(job, folder)
    result = ledger_so_far(job).as_result(job.arrays, command=["mtrec-edge", "compress"], seed=recipe.seed)
    shipped = next(row for row in job.rows if row.stage == "int8_fast")
    card = Card(
        name=recipe.name,
        seed=recipe.seed,
        max_tokens=recipe.model.max_tokens,
        max_history=recipe.model.max_history,
        no_history=all(phase.tasks.history_dropout > 0 for phase in (recipe.distill, recipe.prune)),
        catalogue=recipe.bundle.catalogue,
        stages=tuple({"stage": stage, **measured} for stage, measured in result["stages"].items()),
        quality=shipped.evaluation(recipe.bundle.catalogue).tasks,
    )
    write_bundle(
        job.out,
        graphs=job.folder("quantize"),
        vocabulary=job.folder("distill") / "vocab.txt",
        arrays=job.arrays,
        vectors=_catalogue(job),
        neighbours=job.collaboration.whole,
        temperatures=json.loads((job.folder("calibrate") / "temperatures.json").read_text()),
        card=card,
        verdict=standing.judged(read_verdict(job), recipe.budget, job.arrays.tasks),
        max_mb=recipe.budget.max_mb,
    )
    whole = sum(path.stat().st_size for path in job.out.rglob("*") if path.is_file())
    facts = {
        "bundle_bytes": whole,
        "device_bytes": device_bytes(job.out),
        "manifest_sha256": hash_file(job.out / "manifest.json").sha256,
    }
    return [], facts | standing.facts()
