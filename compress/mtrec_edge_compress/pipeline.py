"""The stages in order: runs them, resumes at the last finished one, writes the stage ledger.

Every stage reads and writes its own folder under `work`, and leaves `stage.json` when it is done: the settings it was
made with, its time, its rows of the ledger. A stage whose settings changed, and those after it, are made again.
"""

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from tqdm import tqdm

from mtrec_edge_compress.agreement import make_pool
from mtrec_edge_compress.bundle import Card, write_bundle
from mtrec_edge_compress.checkpoint import count_parameters, load_model, save_model
from mtrec_edge_compress.compact import CompactBert
from mtrec_edge_compress.data.arrays import Arrays, FloatArray, build_arrays
from mtrec_edge_compress.data.schema import Dataset, Fold
from mtrec_edge_compress.distill import StudentLearner, distill, new_student, soft_targets, student_learner
from mtrec_edge_compress.encoding import Encoded, encode_all, load_encoded, model_dtype, pick_words, save_encoded
from mtrec_edge_compress.evaluate import Evaluation, evaluate
from mtrec_edge_compress.export import ENCODER_FP32, RANKER, export_onnx
from mtrec_edge_compress.graphs import Graphs, Variant
from mtrec_edge_compress.ledger import Ledger, Row, StageRecord, read_record
from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_compress.onnx_graph import byte_ledger
from mtrec_edge_compress.prune import prune
from mtrec_edge_compress.quantize import ENCODER_EXACT, ENCODER_FAST, ENCODER_WEIGHTS, quantize
from mtrec_edge_compress.recipe import Recipe, read_recipe
from mtrec_edge_compress.scorer import VectorScorer, torch_ranker
from mtrec_edge_compress.teacher import small_random_bert, train_teacher
from mtrec_edge_compress.tokens import Tokens, open_tokenizer, tokenize, vocabulary_of
from mtrec_edge_compress.training import Device, Validate, open_device
from mtrec_edge_compress.verify import Verdict, verify
from mtrec_edge_compress.vocabulary import trim_vocabulary
from mtrec_edge_runtime.results import write_result
from mtrec_edge_runtime.timing import Sampling, sample_ms, summarize
from mtrec_edge_runtime.tokenizer import WordPiece

LATENCY_TOKENS = 32


@dataclass(frozen=True)
class Job:
    """One run: what is compressed, with which settings, into what."""

    recipe: Recipe
    arrays: Arrays
    encoder: str  # hub id or folder
    teacher: Path | None  # a trained teacher's checkpoint, instead of training one
    work: Path
    out: Path
    device: Device
    progress: bool

    @cached_property
    def teacher_tokens(self) -> Tokens:
        """Return the texts under the teacher's vocabulary."""
        return tokenize(self.arrays, open_tokenizer(self.encoder), self.recipe.model.max_tokens)

    @cached_property
    def student_tokens(self) -> Tokens:
        """Return the texts under the trimmed vocabulary."""
        return tokenize(self.arrays, WordPiece.load(self.work / "distill/vocab.txt"), self.recipe.model.max_tokens)

    @property
    def place(self) -> torch.device:
        """Return the device in use."""
        return open_device(self.device)

    def judge(self, encoded: Encoded, rank: Any, *, catalogue: FloatArray | None = None) -> Evaluation:
        """Measure on the TEST fold."""
        scorer = VectorScorer(self.arrays, encoded, rank, self.recipe.model.max_history, catalogue)
        users = self.recipe.evaluation.users_per_domain or None
        return evaluate(scorer, self.arrays, fold=Fold.TEST, users_per_domain=users, seed=self.recipe.seed)

    def validator(self, tokens: Tokens, precision: str) -> Validate:
        """Return the function that judges a model on the VALIDATION fold after an epoch."""

        def validate(model: MultiTaskModel) -> dict[str, float]:
            encoded = encode_all(
                model,
                tokens,
                device=self.place,
                dtype=model_dtype(self.place, precision),
                label="validating",
                progress=self.progress,
            )
            scorer = VectorScorer(self.arrays, encoded, torch_ranker(model), self.recipe.model.max_history)
            users = self.recipe.evaluation.validation_users or None
            found = evaluate(scorer, self.arrays, fold=Fold.VALIDATION, users_per_domain=users, seed=self.recipe.seed)
            return _headlines(self.arrays, found)

        return validate


def _headlines(arrays: Arrays, found: Evaluation) -> dict[str, float]:
    """Return each task's headline metric and their mean as `score`; an error counts as 1 - error / chance error."""
    values: dict[str, float] = {}
    gains = []
    for task in arrays.tasks:
        value = found.tasks[task.name].get(task.headline)
        if value is not None:
            values[f"{task.name} {task.headline}"] = value
            chance = found.chance[task.name].get(task.headline, 0.0)
            gains.append(1 - value / chance if task.headline == "rmse" else value - chance)
    return {**values, "score": float(np.mean(gains)) if gains else 0.0}


Stage = Callable[[Job, Path], tuple[list[Row], dict[str, Any]]]  # job, own folder -> rows of the ledger, facts


def teach(job: Job, folder: Path) -> tuple[list[Row], dict[str, Any]]:
    """Train the teacher (or take the given one), encode every text with it."""
    if job.teacher is not None:
        model = load_model(job.teacher)
    else:
        model, _ = train_teacher(
            job.recipe,
            job.arrays,
            job.teacher_tokens,
            job.encoder,
            folder=folder / "training",
            validate=job.validator(job.teacher_tokens, job.recipe.teacher.training.precision),
            device=job.device,
            progress=job.progress,
        )
    if not PartialState().is_main_process:
        return [], {}
    save_model(model, folder / "model")
    dtype = model_dtype(job.place, job.recipe.teacher.training.precision)
    encoded = encode_all(
        model.to(job.place),
        job.teacher_tokens,
        device=job.place,
        dtype=dtype,
        label="soft targets",
        progress=job.progress,
    )
    save_encoded(encoded, folder / "encoded.npz")
    return [_torch_row(job, "teacher", model, encoded, folder)], {}


def distill_student(job: Job, folder: Path) -> tuple[list[Row], dict[str, Any]]:
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


def prune_student(job: Job, folder: Path) -> tuple[list[Row], dict[str, Any]]:
    """Prune and heal the student."""
    learner = _student_learner(job, load_model(job.work / "distill/model"))
    prune(
        job.recipe,
        learner,
        job.arrays,
        folder=folder,
        validate=job.validator(job.student_tokens, job.recipe.prune.heal.precision),
        device=job.device,
        progress=job.progress,
    )
    backbone = learner.model.text.backbone
    assert isinstance(backbone, CompactBert)
    layers = ", ".join(f"{heads} heads {units} units" for heads, units in backbone.shape.layers)
    return _student_rows(job, "pruned", learner.model, folder), {"pruned_layers": layers}


def export_graphs(job: Job, folder: Path) -> tuple[list[Row], dict[str, Any]]:
    """Export the pruned student as FP32 ONNX."""
    export_onnx(load_model(job.work / "prune/model"), folder)
    return [_graph_row(job, "onnx_fp32", folder, "fp32")], {}


def quantize_graphs(job: Job, folder: Path) -> tuple[list[Row], dict[str, Any]]:
    """Make the two INT8 profiles."""
    quantize(job.work / "export", folder, reduce_range=job.recipe.quantize.reduce_range)
    rows = [_graph_row(job, "int8_fast", folder, "fast"), _graph_row(job, "int8_exact", folder, "exact")]
    return rows, {"bytes": byte_ledger(folder / ENCODER_FAST)}


def verify_graphs(job: Job, folder: Path) -> tuple[list[Row], dict[str, Any]]:
    """Compare torch, FP32 and INT8; measure every stage's latency in one window."""
    limits, arrays = job.recipe.verify, job.arrays
    ids = job.student_tokens.ids
    domains = {task.domain for task in arrays.tasks if task.device_task().pairwise}
    pools = [
        make_pool(
            arrays, ids, domain, max_history=job.recipe.model.max_history, candidates=limits.pool, seed=job.recipe.seed
        )
        for domain in sorted(domains)
    ]
    rows = {row.stage: row.evaluation() for row in _rows(job)}
    verdict = verify(
        load_model(job.work / "prune/model"),
        fp32=job.work / "export",
        int8=job.work / "quantize",
        pools=pools,
        evaluations=rows,  # type: ignore[arg-type]
        vocabulary=len((job.work / "distill/vocab.txt").read_text(encoding="utf-8").splitlines()),
        max_tokens=job.recipe.model.max_tokens,
        limits=limits,
    )
    (folder / "verdict.json").write_text(json.dumps(asdict(verdict), indent=1))
    (folder / "latency.json").write_text(json.dumps(_latencies(job)))
    return [], {}


def bundle_up(job: Job, folder: Path) -> tuple[list[Row], dict[str, Any]]:
    """Write the bundle."""
    arrays, ledger, items = job.arrays, _ledger(job), len(job.arrays.item_ids)
    if job.recipe.bundle.catalogue == "teacher":
        vectors = load_encoded(job.work / "teacher/encoded.npz").vectors[:items]
    else:
        vectors = load_encoded(job.work / "quantize/exact.npz").vectors[:items]
    result = ledger.as_result(arrays, command=["mtrec-edge", "compress"], seed=job.recipe.seed)
    by_stage = {row.stage: row for row in ledger.rows}
    shipped = by_stage["int8_fast"]
    card = Card(
        name=job.recipe.name,
        max_tokens=job.recipe.model.max_tokens,
        max_history=job.recipe.model.max_history,
        catalogue=job.recipe.bundle.catalogue,
        stages=tuple({"stage": stage, **measured} for stage, measured in result["stages"].items()),
        quality=shipped.known_items if job.recipe.bundle.catalogue == "teacher" else shipped.tasks,
    )
    write_bundle(
        job.out,
        graphs=job.work / "quantize",
        vocabulary=job.work / "distill/vocab.txt",
        arrays=arrays,
        vectors=vectors,
        card=card,
        verdict=_verdict(job),
    )
    size = sum(path.stat().st_size for path in job.out.rglob("*") if path.is_file())
    return [], {"bundle_bytes": size}


STAGES: tuple[tuple[str, Stage, tuple[str, ...]], ...] = (  # name, function, settings it adds to those before it
    ("teacher", teach, ("seed", "model", "weights", "teacher", "evaluation")),
    ("distill", distill_student, ("student", "distill")),
    ("prune", prune_student, ("prune",)),
    ("export", export_graphs, ()),
    ("quantize", quantize_graphs, ("quantize",)),
    ("verify", verify_graphs, ("verify",)),
    ("bundle", bundle_up, ("name", "bundle")),
)


def _torch_row(job: Job, stage: str, model: MultiTaskModel, encoded: Encoded, folder: Path) -> Row:
    """Measure a torch model; its size is that of its FP32 graphs."""
    model.cpu()
    export_onnx(model, folder / "onnx")
    found = job.judge(encoded, torch_ranker(model))
    known = _known_items(job, stage, encoded, torch_ranker(model))
    size = sum((folder / "onnx" / name).stat().st_size for name in (ENCODER_FP32, RANKER))
    return Row(stage, count_parameters(model), size, found.tasks, found.chance, found.counts, known)


def _student_rows(job: Job, stage: str, model: MultiTaskModel, folder: Path) -> list[Row]:
    if not PartialState().is_main_process:
        return []
    save_model(model, folder / "model")
    encoded = encode_all(
        model.cpu(), job.student_tokens, device=torch.device("cpu"), label=f"encoding: {stage}", progress=job.progress
    )
    return [_torch_row(job, stage, model, encoded, folder)]


def _known_items(job: Job, stage: str, encoded: Encoded, rank: Any) -> dict[str, dict[str, float]]:
    """Return the pairwise tasks' metrics with the teacher's vectors in the catalogue ({} for the teacher itself)."""
    if stage == "teacher":
        return {}
    vectors = load_encoded(job.work / "teacher/encoded.npz").vectors
    return job.judge(encoded, rank, catalogue=vectors).tasks


def _graph_row(job: Job, stage: str, folder: Path, variant: Variant) -> Row:
    """Measure exported graphs through ONNX Runtime, as the device runs them."""
    graphs = Graphs(folder, variant, threads=torch.get_num_threads())
    tokens = job.student_tokens
    raw = graphs.encode(tokens.ids)
    words: dict[str, dict[int, FloatArray]] = {}
    for name, rows in raw.token_logits.items():
        words[name] = {}
        for row, logits in enumerate(rows):
            words[name].update(pick_words(tokens, np.array([row]), logits[None]))
    encoded = Encoded(raw.vectors, raw.logits, words)
    save_encoded(encoded, folder / f"{variant}.npz")
    found = job.judge(encoded, graphs.rank)
    known = _known_items(job, stage, encoded, graphs.rank)
    parameters = count_parameters(load_model(job.work / "prune/model"))
    return Row(stage, parameters, _graph_bytes(folder, variant), found.tasks, found.chance, found.counts, known)


def _graph_bytes(folder: Path, variant: Variant) -> int:
    names = {
        "fp32": (ENCODER_FP32, RANKER),
        "fast": (ENCODER_FAST, ENCODER_WEIGHTS, RANKER),
        "exact": (ENCODER_EXACT, ENCODER_WEIGHTS, RANKER),
    }[variant]
    return sum((folder / name).stat().st_size for name in names)


def _latencies(job: Job) -> dict[str, dict[str, dict[str, float]]]:
    """Time one text of 32 tokens through every stage's encoder, interleaved, one thread, batch 1."""
    length = min(LATENCY_TOKENS, job.recipe.model.max_tokens)
    work = job.work
    places: dict[str, tuple[Path, Variant]] = {
        "teacher": (work / "teacher/onnx", "fp32"),
        "student": (work / "distill/onnx", "fp32"),
        "pruned": (work / "prune/onnx", "fp32"),
        "onnx_fp32": (work / "export", "fp32"),
        "int8_fast": (work / "quantize", "fast"),
        "int8_exact": (work / "quantize", "exact"),
    }
    ids = np.full((1, length), 5, np.int64)
    mask = np.ones_like(ids)
    calls = {stage: _call(Graphs(folder, variant), ids, mask) for stage, (folder, variant) in places.items()}
    samples = sample_ms(calls, Sampling(samples=200, seconds=2.0))
    kept = ("p50", "p95")
    return {
        stage: {str(length): {k: v for k, v in summarize(times).items() if k in kept}}
        for stage, times in samples.items()
    }


def _call(graphs: Graphs, ids: Any, mask: Any) -> Callable[[], object]:
    return lambda: graphs.run_encoder(ids, mask)


def _verdict(job: Job) -> Verdict:
    stored = json.loads((job.work / "verify/verdict.json").read_text())
    return Verdict(stored["certified"], tuple(stored["reasons"]), stored["measured"])


def _rows(job: Job) -> list[Row]:
    records = [read_record(job.work / name / "stage.json") for name, _, _ in STAGES]
    return [row for record in records if record for row in record.rows]


def _ledger(job: Job) -> Ledger:
    records = {name: read_record(job.work / name / "stage.json") for name, _, _ in STAGES}
    seconds, facts = {}, dict[str, Any]()
    for record in records.values():
        if record:
            seconds |= {row.stage: record.seconds / len(record.rows) for row in record.rows}
            facts |= record.facts
    latency = job.work / "verify/latency.json"
    return Ledger(
        job.recipe.name,
        tuple(_rows(job)),
        seconds,
        json.loads(latency.read_text()) if latency.is_file() else {},
        facts,
    )


@dataclass(frozen=True)
class Result:
    """What a run leaves."""

    ledger_text: str
    ledger: dict[str, Any]  # a result file's content
    ledger_path: Path
    certified: bool
    reasons: tuple[str, ...]
    example_text: str = ""


def run(
    recipe_path: Path,
    *,
    data: Path,
    out: Path,
    encoder: str | None = None,
    teacher: Path | None = None,
    device: Device = "auto",
    overrides: Sequence[str] = (),
    work: Path | None = None,
    progress: bool = True,
) -> Result:
    """Run every stage of a recipe on a dataset and write the bundle to `out`.

    Args:
        recipe_path: a TOML recipe.
        data: a dataset folder that `prepare` wrote.
        out: the bundle's folder.
        encoder: hub id or folder of the teacher's encoder, over the recipe's.
        teacher: a trained teacher's checkpoint folder; stage 2 then only measures it.
        device: where to train.
        overrides: `key=value` over the recipe.
        work: where stages keep what they made; by default `out` with `.work` behind it. A killed run resumes there.
        progress: show progress bars on stderr.

    Raises:
        MtrecError: whatever stands in the way, with the next step.
    """
    recipe = read_recipe(recipe_path, overrides)
    return run_stages(
        recipe,
        build_arrays(Dataset.read(data)),
        out=out,
        encoder=encoder,
        teacher=teacher,
        device=device,
        work=work,
        progress=progress,
    )


def run_stages(
    recipe: Recipe,
    arrays: Arrays,
    *,
    out: Path,
    encoder: str | None = None,
    teacher: Path | None = None,
    device: Device = "auto",
    work: Path | None = None,
    progress: bool = True,
) -> Result:
    """Run every stage that is not already done with the same settings."""
    PartialState(cpu=open_device(device).type == "cpu")
    work = work or out.with_name(out.name + ".work")
    source = encoder or recipe.teacher.encoder or small_random_bert(recipe, arrays, work / "encoder")
    job = Job(recipe, arrays, source, teacher, work, out, device, progress)
    settings: dict[str, Any] = {
        "data": [arrays.dataset.name, arrays.dataset.split_hash],
        "encoder": source,
        "teacher": str(teacher),
    }
    for name, stage, own in STAGES:
        settings |= {f"{key}_settings": asdict(recipe)[key] for key in own}
        _run_stage(job, name, stage, hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest())
    ledger = _ledger(job)
    result = ledger.as_result(arrays, command=["mtrec-edge", *sys.argv[1:]], seed=recipe.seed)
    verdict = _verdict(job)
    if PartialState().is_main_process:
        write_result(work / "ledger.json", result)
    return Result(ledger.table(arrays.tasks), dict(result), work / "ledger.json", verdict.certified, verdict.reasons)


def _run_stage(job: Job, name: str, stage: Stage, fingerprint: str) -> None:
    """Run one stage unless its record says it is done with these settings."""
    folder = job.work / name
    record, draft = read_record(folder / "stage.json"), folder / "fingerprint"
    alone = PartialState().is_main_process
    if record and record.fingerprint == fingerprint:
        return
    if alone and folder.exists() and not (draft.is_file() and draft.read_text() == fingerprint):
        shutil.rmtree(folder)  # made with other settings
    PartialState().wait_for_everyone()
    folder.mkdir(parents=True, exist_ok=True)
    if job.progress and alone:
        tqdm.write(f"stage {name}", file=sys.stderr)
    began = time.monotonic()
    if alone:
        draft.write_text(fingerprint)
    if name in ("teacher", "distill", "prune") or alone:  # the later stages need one process
        rows, facts = stage(job, folder)
        if alone:
            StageRecord(fingerprint, round(time.monotonic() - began, 1), tuple(rows), facts).write(
                folder / "stage.json"
            )
    PartialState().wait_for_everyone()
