"""The stages in order: runs them, resumes at the last finished one, writes the stage ledger.

Every stage reads and writes its own folder under `work`, and leaves `stage.json` when it is done: the settings it was
made with, its time, its rows of the ledger. A stage whose settings changed, and those after it, are made again.
"""

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from accelerate import PartialState
from tqdm import tqdm

from mtrec_edge_compress.budget import check_budget
from mtrec_edge_compress.bundle import refuse_foreign
from mtrec_edge_compress.checkpoint import model_hash
from mtrec_edge_compress.compress_report import Outcome, write_compress_report
from mtrec_edge_compress.cores import every_core
from mtrec_edge_compress.cross_teacher import teach_cross_encoder
from mtrec_edge_compress.data.arrays import LAYOUT, Arrays, read_arrays
from mtrec_edge_compress.device import open_device
from mtrec_edge_compress.job import Job
from mtrec_edge_compress.ledger import StageRecord, read_record
from mtrec_edge_compress.recipe import CrossEncoder, Recipe, settings_of
from mtrec_edge_compress.recipe_file import read_recipe
from mtrec_edge_compress.run_options import RunOptions
from mtrec_edge_compress.stages import (
    Made,
    augment_texts,
    bundle_up,
    calibrate,
    collaborate,
    distill_student,
    export_graphs,
    heal_int8,
    learn_untaught,
    ledger_so_far,
    prune_student,
    quantize_graphs,
    read_verdict,
    teach,
    time_pruning,
    verify_graphs,
)
from mtrec_edge_compress.start import check_start
from mtrec_edge_compress.teacher import check_detached, check_encoder, small_random_bert, task_weights
from mtrec_edge_compress.unlabelled import check_files, file_hash
from mtrec_edge_runtime.errors import StageError
from mtrec_edge_runtime.integrity import hash_file
from mtrec_edge_runtime.manifest import FORMAT, Manifest, read_manifest
from mtrec_edge_runtime.results import write_result

Run = Callable[[Job, Path], Made]  # job, own folder -> rows of the ledger, facts

StageOf = tuple[str, Run, tuple[str, ...]]  # name, function, settings it adds to those before it
Settings = dict[str, Any]  # what a stage's outcome depends on

CROSS_ENCODER = "cross_encoder"

STAGES: tuple[StageOf, ...] = (
    ("collaborate", collaborate, ("seed", "collaborate")),
    ("teacher", teach, ("model", "weights", "teacher", "evaluation")),
    ("augment", augment_texts, ("augment",)),
    (CROSS_ENCODER, teach_cross_encoder, ()),  # where the recipe asks for one
    ("distill", distill_student, ("student", "distill")),
    ("prune", prune_student, ("prune",)),
    ("untaught", learn_untaught, ("untaught",)),
    ("heal_int8", heal_int8, ("quantize", "heal")),  # where the recipe asks for it
    ("export", export_graphs, ()),
    ("quantize", quantize_graphs, ("quantize",)),
    ("calibrate", calibrate, ("bundle",)),
    ("verify", verify_graphs, ("verify",)),
    ("bundle", bundle_up, ("name", "budget", "untaught")),  # its ledger has a row of the latter
)
IN_EVERY_PROCESS = (
    "teacher",
    CROSS_ENCODER,
    "distill",
    "prune",
    "untaught",
    "heal_int8",
)  # these train; others need one


PATIENCE = timedelta(hours=2)  # of the processes that wait while the main one measures


@dataclass(frozen=True)
class Result:
    """What a run leaves."""

    ledger_text: str
    ledger: dict[str, Any]  # a result file's content
    certified: bool
    reasons: tuple[str, ...]
    report: Path  # the page; `report.md` beside it says the same
    example_text: str = ""


def run(recipe_path: Path, *, data: Path, out: Path, options: RunOptions, overrides: Sequence[str] = ()) -> Result:
    """Run every stage of a recipe that is not already done with the same settings, and write the bundle to `out`.

    Args:
        recipe_path: a TOML recipe.
        data: a dataset folder that `prepare` wrote.
        out: the bundle's folder.
        options: the models, the device, the stages' folder; a killed run resumes in the same one.
        overrides: `key=value` over the recipe.

    Raises:
        MtrecError: whatever stands in the way, with the next step.
    """
    recipe, arrays = read_recipe(recipe_path, overrides), read_arrays(data)
    check_run(recipe, arrays, out, options)
    job, settings = open_job(recipe, arrays, out=out, options=options)
    run_through(job, settings, STAGES)
    return finish(job)


def check_run(recipe: Recipe, arrays: Arrays, out: Path, options: RunOptions) -> None:
    """Refuse, before anything is trained, what could not be finished."""
    refuse_foreign(out)
    if not any(task.source == "events" for task in arrays.tasks):
        raise StageError("the dataset has no regression or binary task, so there is nothing to rank; add one")
    task_weights(recipe, arrays)
    check_detached(recipe, arrays)
    check_budget(recipe.budget, arrays.tasks)
    check_files(recipe.augment.unlabelled)
    own = options.encoder or recipe.teacher.encoder  # "": a small random BERT
    loaded = check_encoder(recipe, own) if own and not options.teachers else None
    if encoder := recipe.student.encoder or own:
        check_start(recipe, encoder, None if recipe.student.encoder else loaded)


def run_through(job: Job, settings: Settings, stages: Sequence[StageOf]) -> None:
    """Run these stages in order; each adds its settings to `settings` and its record to the job's."""
    for name, stage, own in stages:
        if name == CROSS_ENCODER and not job.recipe.cross_encoder.windows:
            continue
        if name == "heal_int8" and not job.recipe.quantize.heal.epochs:
            continue
        settings |= _of_cross_encoder(job.recipe.cross_encoder, name)
        stated = {f"{key}_settings": settings_of(job.recipe, key) for key in own}
        if name == "untaught":  # what ships follows from the budget, too; the same choice makes the same graphs
            time_pruning(job)
            settings["shipped"] = job.shipped
        if name == "augment" and job.recipe.augment.unlabelled:
            settings["unlabelled"] = [file_hash(path) for path in job.recipe.augment.unlabelled]
        if name == "distill" and job.recipe.student.encoder:
            settings["student_encoder"] = model_hash(job.recipe.student.encoder)
        if name == "export":
            settings["bundle_format"] = FORMAT
        if name == "bundle":
            settings["compared"] = job.compared
            _forget_another_bundle(job)
        if name != "untaught":  # nothing is made of that student
            settings |= stated
        job.records[name] = run_stage(job, name, stage, settings | stated, everywhere=name in IN_EVERY_PROCESS)


def _of_cross_encoder(recipe: CrossEncoder, stage: str) -> Settings:
    """Return what this stage adds of the cross-encoder's settings: nothing where there is none.

    So runs without one are as they were, and another `share` trains students again, no cross-encoder.
    """
    if not recipe.windows or stage not in (CROSS_ENCODER, "distill"):
        return {}
    own = asdict(recipe)
    share = own.pop("share")
    return {"cross_encoder_settings": own} if stage == CROSS_ENCODER else {"cross_encoder_share": share}


def _forget_another_bundle(job: Job) -> None:
    """Have the bundle made again when what lies in `out` is not the one that was made: removed, or another run's."""
    if PartialState().is_main_process:
        path, manifest = job.folder("bundle") / "stage.json", job.out / "manifest.json"
        record = read_record(path)
        if record and not (manifest.is_file() and hash_file(manifest).sha256 == record.facts.get("manifest_sha256")):
            path.unlink()
    PartialState().wait_for_everyone()


def finish(job: Job) -> Result:
    """Write the ledger of a run whose stages are all done, and return what it leaves."""
    ledger, bundle = ledger_so_far(job), read_manifest(job.out, verify=False)
    result = ledger.as_result(job.arrays, command=["mtrec-edge", *sys.argv[1:]], seed=job.recipe.seed)
    if PartialState().is_main_process:
        write_result(job.work / "ledger.json", result)
        write_compress_report(job.work, _outcome(job, result, bundle))
    report = job.work / "report.html"
    return Result(ledger.table(job.arrays.tasks), dict(result), bundle.certified, bundle.reasons, report)


def _outcome(job: Job, result: Mapping[str, Any], bundle: Manifest) -> Outcome:
    """Return what the report of a finished run is made of; the bundle's verdict is the one with its budget."""
    return Outcome(
        result,
        replace(read_verdict(job), certified=bundle.certified, reasons=bundle.reasons),
        job.records["quantize"].facts["bytes"],
        " fused with ".join(map(str, job.teachers or [job.encoder])),
    )


def open_job(recipe: Recipe, arrays: Arrays, *, out: Path, options: RunOptions) -> tuple[Job, Settings]:
    """Join the other processes, find the encoder or make a small one; return the job and what its stages depend on."""
    alone = PartialState(cpu=open_device(options.device).type == "cpu", timeout=PATIENCE).is_main_process
    work = options.work or out.with_name(out.name + ".work")
    named, teachers = options.encoder or recipe.teacher.encoder, options.teachers
    if not named and alone:
        small_random_bert(recipe, arrays, work / "encoder")
    PartialState().wait_for_everyone()
    encoder = named or str(work / "encoder")
    job = Job(recipe, arrays, encoder, teachers, work, out, options.device, options.progress)
    settings: Settings = {
        "data": arrays.dataset.content_hash(),
        "layout": LAYOUT,
        "encoder": model_hash(named),
        "teachers": [model_hash(str(path)) for path in teachers],
    }
    return job, settings


def run_stage(job: Job, name: str, stage: Run, settings: Mapping[str, Any], *, everywhere: bool) -> StageRecord:
    """Run one stage unless its record says it is done with these settings; return its record.

    `everywhere` says that it trains, so that every process runs it, not the main one alone.
    """
    fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    folder = job.folder(name)
    record = read_record(folder / "stage.json")
    if record and record.fingerprint == fingerprint:
        return record
    alone = PartialState().is_main_process
    PartialState().wait_for_everyone()
    if alone:
        _make_folder(folder, fingerprint)
        if job.progress:
            tqdm.write(f"stage {name}", file=sys.stderr)
    PartialState().wait_for_everyone()
    began = time.monotonic() - (_seconds_before_a_kill(folder) if alone else 0.0)  # the others never look there
    if everywhere or alone:
        with nullcontext() if everywhere else every_core():
            rows, facts = stage(job, folder)
        if alone:
            seconds = round(time.monotonic() - began, 1)
            StageRecord(fingerprint, seconds, tuple(rows), facts).write(folder / "stage.json")
    PartialState().wait_for_everyone()
    made = read_record(folder / "stage.json")
    assert made is not None
    return made


def _seconds_before_a_kill(folder: Path) -> float:
    """Return how long the stage's trainings, finished or saved, had already taken when this run began."""
    return sum(float(json.loads(stored.read_text())["seconds"]) for stored in folder.rglob("progress.json"))


def _make_folder(folder: Path, fingerprint: str) -> None:
    """Make a stage's folder; what other settings left there is removed, what these left is taken up again."""
    draft = folder / "fingerprint"
    if folder.exists() and not (draft.is_file() and draft.read_text() == fingerprint):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    draft.write_text(fingerprint)
