"""`heal_int8`: where INT8 loses too much, the student learns once more with INT8's rounding in the loop.

The student as it stands is exported and quantized, and FP32 compared with INT8 by the rule of `verify`, on the
VALIDATION fold: TEST stays unread. Within the limits nothing is done. Else the student learns the tasks again as after
pruning (`prune.tasks`: the same batches and soft targets), rounded as its graph is (fake_quantize.py), and is quantized
and measured again. It is kept where INT8 got better, else left aside; either is said in the facts.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState

from mtrec_edge_compress.checkpoint import load_model
from mtrec_edge_compress.cores import every_core
from mtrec_edge_compress.data.schema import Fold, TaskSpec
from mtrec_edge_compress.encoding import Encoded
from mtrec_edge_compress.evaluate import Evaluation
from mtrec_edge_compress.export import export_onnx
from mtrec_edge_compress.fake_quantize import fake_quantized
from mtrec_edge_compress.graphs import Graphs, Variant
from mtrec_edge_compress.job import Job
from mtrec_edge_compress.label_agreement import label_agreement
from mtrec_edge_compress.ledger import Stage, TaskMetrics
from mtrec_edge_compress.measure import encode_by, teachers_catalogue
from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_compress.quantize import quantize
from mtrec_edge_compress.recipe import Verify
from mtrec_edge_compress.student_training import StudentTraining, of_student
from mtrec_edge_compress.verify import INT8_STAGES, Int8, int8_reasons, retentions
from mtrec_edge_runtime.whole_file import write_whole

FIGURES = "figures.json"


@dataclass(frozen=True)
class Figures:
    """What a student's graphs reach on the VALIDATION fold."""

    tasks: Mapping[Stage, TaskMetrics]  # onnx_fp32 and both profiles of INT8
    chance: TaskMetrics
    labels: Mapping[Int8, Mapping[str, Mapping[str, float]]]  # profile -> task -> what `label_agreement` found

    def evaluation(self, stage: Stage) -> Evaluation:
        """Return one graph's figures as `verify` wants them."""
        return Evaluation(dict(self.tasks[stage]), {}, dict(self.chance), {}, {}, {})


def heal(
    job: Job, folder: Path, make_training: Callable[[], StudentTraining]
) -> tuple[MultiTaskModel | None, dict[str, Any]]:
    """Return the healed student, None where there is none to keep, and what the stage's record says of it.

    `make_training` gives the training of the student as it stands; it is called where there is something to heal.
    """
    tasks, limits = job.arrays.tasks, job.recipe.verify
    before = _figures(job, lambda: load_model(job.student), folder / "before")
    lost = worst_loss(tasks, before, before)
    if not gate_reasons(tasks, before, limits):
        return None, {"int8 healing": "not needed, INT8 is within verify's limits on validation", "int8 loss": lost}
    training = make_training()
    _train(job, training, folder / "training")
    healed = training.learner.model
    after = _figures(job, lambda: healed, folder / "after")
    why = why_undo(tasks, before, after, limits)
    facts = {
        "int8 healing": f"undone: {why}" if why else "kept",
        "int8 loss before healing": lost,
        "int8 loss after healing": worst_loss(tasks, before, after),
        "int8 limits missed after healing": len(gate_reasons(tasks, after, limits)),
    }
    return (None if why else healed), facts


def why_undo(tasks: Sequence[TaskSpec], before: Figures, after: Figures, limits: Verify) -> str:
    """Return why the healed student is left aside; "" when it is kept.

    Both students' INT8 is compared with FP32 as it was before, so that a student whose FP32 fell to its INT8 has not
    gained. It is kept where the worst task loses less, or where no limit is missed any more, by that measure as well.
    """
    old, new = worst_loss(tasks, before, before), worst_loss(tasks, before, after)
    within = new <= limits.task_loss and not gate_reasons(tasks, after, limits)
    return "" if new < old or within else f"the worst task loses {new:.2%} in INT8, before {old:.2%}"


def gate_reasons(tasks: Sequence[TaskSpec], figures: Figures, limits: Verify) -> list[str]:
    """Return a sentence for each limit of `verify` that INT8 misses: loss of a task, agreement of labels."""
    reasons = []
    for profile, stage in INT8_STAGES.items():
        losses = _losses(tasks, figures, figures, stage)
        for task in tasks:
            measured = dict(figures.labels[profile].get(task.name, {}))
            if task.name in losses:
                measured["loss"] = losses[task.name]
            reasons += int8_reasons(task, profile, measured, limits)
    return reasons


def worst_loss(tasks: Sequence[TaskSpec], reference: Figures, figures: Figures) -> float:
    """Return the greatest relative loss of a task's headline, from FP32 of `reference` to either INT8 of `figures`."""
    losses = (_losses(tasks, reference, figures, stage) for stage in INT8_STAGES.values())
    return max((lost for found in losses for lost in found.values()), default=0.0)


def _losses(tasks: Sequence[TaskSpec], reference: Figures, figures: Figures, stage: Stage) -> dict[str, float]:
    both = {"onnx_fp32": reference.evaluation("onnx_fp32"), stage: figures.evaluation(stage)}
    return {name: 1 - share for name, share in retentions(tasks, both, "onnx_fp32", stage).items()}


def _train(job: Job, training: StudentTraining, folder: Path) -> None:
    """Train the student with INT8's rounding; the best epoch on validation, rounded too, is taken."""
    recipe = job.recipe
    settings = of_student(recipe.quantize.heal.training(recipe.prune.tasks), job.device)
    with fake_quantized(training.learner.model, job.calibration_texts(), recipe.quantize):
        training.fit(
            settings,
            with_pairs=True,
            folder=folder,
            label="heal INT8",
            number=recipe.prune.rounds + 2,
            validate=job.validator(job.student_tokens, settings.precision),
            word_bits=recipe.quantize.word_bits,
        )


def _figures(job: Job, model: Callable[[], MultiTaskModel], folder: Path) -> Figures:
    """Return what a student's graphs reach, measured once, on the main process, and remembered in `folder`."""
    path = folder / FIGURES
    if PartialState().is_main_process and not path.is_file():
        with every_core():
            found = _measure(job, model(), folder)
        write_whole(path, json.dumps(asdict(found)))
    PartialState().wait_for_everyone()
    return Figures(**json.loads(path.read_text()))


def _measure(job: Job, model: MultiTaskModel, folder: Path) -> Figures:
    """Export a student, quantize it and judge all three graphs, with the item vectors that ship."""
    export_onnx(model, folder)
    quantize(folder, folder / "int8", job.calibration_texts(), job.recipe.quantize)
    places: dict[Stage, tuple[Path, Variant]] = {"onnx_fp32": (folder, "fp32")}
    places |= {stage: (folder / "int8", profile) for profile, stage in INT8_STAGES.items()}
    encoded: dict[Stage, Encoded] = {}
    judged: dict[Stage, Evaluation] = {}
    for stage, (place, variant) in places.items():
        graphs = Graphs(place, variant, model.outputs)
        encoded[stage] = found = encode_by(graphs, job)
        catalogue = teachers_catalogue(job, found) if job.recipe.bundle.catalogue == "teacher" else None
        judged[stage] = job.judge(found, graphs.rank, catalogue=catalogue, fold=Fold.VALIDATION)
    labels = {
        profile: label_agreement(encoded["onnx_fp32"], encoded[stage], job.arrays, Fold.VALIDATION)
        for profile, stage in INT8_STAGES.items()
    }
    return Figures(
        {stage: evaluation.tasks for stage, evaluation in judged.items()}, judged["onnx_fp32"].chance, labels
    )
