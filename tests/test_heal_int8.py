"""Training with INT8's rounding: done where the gate is missed, kept where INT8 gets better, else left aside."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import TASKS
from tiny_training import RECIPE, tiny_arrays, tiny_student_learner, vocabulary_for, without_collaboration

from mtrec_edge_compress.checkpoint import load_model, save_model
from mtrec_edge_compress.collaboration import save_collaboration
from mtrec_edge_compress.heal_int8 import Figures, gate_reasons, heal, why_undo, worst_loss
from mtrec_edge_compress.job import COLLABORATION, Job
from mtrec_edge_compress.ledger import Row, Stage, StageRecord
from mtrec_edge_compress.recipe import Bundle, Distill, Heal, Prune, Quantize, Recipe, Student, Verify, settings_of
from mtrec_edge_compress.student_training import StudentTraining

KEPT_BY_ALL = Verify(task_loss=1000.0, label_agreement=0.0)
KEPT_BY_NONE = Verify(label_agreement=1.01)


def figures(*, fp32: float, fast: float, exact: float, agreement: float = 1.0) -> Figures:
    """Macro F1 of the one task that was measured, and the share of labels that INT8 leaves as they were."""
    stages: dict[Stage, float] = {"onnx_fp32": fp32, "int8_fast": fast, "int8_exact": exact}
    labels = {"movies.genre": {"label_agreement": agreement}}
    return Figures(
        {stage: {"movies.genre": {"macro_f1": value}} for stage, value in stages.items()},
        {task.name: {} for task in TASKS},
        {"fast": labels, "exact": labels},
    )


def test_the_worst_of_both_profiles_counts() -> None:
    found = figures(fp32=0.8, fast=0.76, exact=0.72)
    assert worst_loss(TASKS, found, found) == pytest.approx(0.1)
    reasons = gate_reasons(TASKS, found, Verify(task_loss=0.06))
    assert len(reasons) == 1 and reasons[0].startswith("movies.genre: INT8 exact loses 10.00% of the FP32 graph's mac")
    assert gate_reasons(TASKS, found, Verify(task_loss=0.11)) == []


def test_labels_are_judged_beside_the_loss() -> None:
    found = figures(fp32=0.8, fast=0.8, exact=0.8, agreement=0.9)
    assert len(gate_reasons(TASKS, found, Verify(label_agreement=0.97))) == 2


def test_better_int8_is_kept_and_worse_is_undone() -> None:
    before = figures(fp32=0.8, fast=0.72, exact=0.8)
    assert why_undo(TASKS, before, figures(fp32=0.8, fast=0.76, exact=0.8), Verify()) == ""
    worse = figures(fp32=0.8, fast=0.68, exact=0.8)
    assert why_undo(TASKS, before, worse, Verify()) == "the worst task loses 15.00% in INT8, before 10.00%"
    assert why_undo(TASKS, before, before, Verify()) != ""


def test_a_student_whose_fp32_fell_to_its_int8_has_not_gained() -> None:
    before = figures(fp32=0.8, fast=0.72, exact=0.8)
    fallen = figures(fp32=0.7, fast=0.7, exact=0.7)
    assert gate_reasons(TASKS, fallen, Verify()) == []
    assert why_undo(TASKS, before, fallen, Verify()).startswith("the worst task loses 12.50% in INT8")


def test_labels_that_stay_at_last_are_kept_for_a_loss_within_the_limit() -> None:
    before = figures(fp32=0.8, fast=0.8, exact=0.8, agreement=0.9)
    after = figures(fp32=0.8, fast=0.796, exact=0.8, agreement=0.99)
    assert why_undo(TASKS, before, after, Verify(task_loss=0.01)) == ""
    assert why_undo(TASKS, before, after, Verify(task_loss=0.001)) != ""


def test_what_was_not_measured_does_not_fail() -> None:
    nothing = Figures({"onnx_fp32": {}, "int8_fast": {}, "int8_exact": {}}, {}, {"fast": {}, "exact": {}})
    assert worst_loss(TASKS, nothing, nothing) == 0.0 and gate_reasons(TASKS, nothing, Verify()) == []


def record(*stages: Stage) -> StageRecord:
    return StageRecord("", 0.0, tuple(Row(stage, 1, 1, {}, {}, {}) for stage in stages), {})


def job_in(work: Path, limits: Verify) -> Job:
    """A run whose student is distilled and pruned."""
    arrays = tiny_arrays()
    recipe = replace(
        RECIPE,
        quantize=Quantize(heal=Heal(epochs=1, learning_rate=1e-2)),
        verify=limits,
        bundle=Bundle(catalogue="student"),
    )
    job = Job(recipe, arrays, "", None, work, work / "bundle", "cpu", progress=False)
    job.records["prune"] = record("student", "pruned")
    job.folder("distill").mkdir(parents=True)
    (job.folder("distill") / "vocab.txt").write_text("\n".join(vocabulary_for(arrays)) + "\n", encoding="utf-8")
    (work / COLLABORATION).parent.mkdir()
    save_collaboration(without_collaboration(arrays), work / COLLABORATION)
    save_model(tiny_student_learner(arrays).model, job.student)
    return job


def training_of(job: Job) -> Callable[[], StudentTraining]:
    def make() -> StudentTraining:
        learner = tiny_student_learner(job.arrays)
        learner.model.load_state_dict(load_model(job.student).state_dict())
        return StudentTraining(job.recipe, learner, job.arrays, job.collaboration, "cpu", progress=False)

    return make


def not_asked() -> StudentTraining:
    raise AssertionError("nothing is to be trained")


def test_within_the_limits_nothing_is_trained(tmp_path: Path) -> None:
    job = job_in(tmp_path / "work", KEPT_BY_ALL)
    healed, facts = heal(job, tmp_path / "heal", not_asked)
    assert healed is None and facts["int8 healing"].startswith("not needed")
    assert [path.name for path in (tmp_path / "heal").iterdir()] == ["before"]


@pytest.mark.slow
def test_beyond_the_limits_it_is_trained_measured_again_and_judged_and_resumes(tmp_path: Path) -> None:
    job, folder = job_in(tmp_path / "work", KEPT_BY_NONE), tmp_path / "heal"
    healed, facts = heal(job, folder, training_of(job))
    better = facts["int8 loss after healing"] < facts["int8 loss before healing"]
    assert (healed is not None) == better and facts["int8 limits missed after healing"] > 0
    assert facts["int8 healing"] == "kept" if better else facts["int8 healing"].startswith("undone: the worst task")
    trained, start = load_model(folder / "training/best"), load_model(job.student)
    for name in ("text.backbone.embeddings.word.weight", "text.backbone.layers.0.up.weight"):
        assert not torch.equal(trained.state_dict()[name], start.state_dict()[name])
    made = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert heal(job, folder, training_of(job))[1] == facts
    assert made == {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_healed_student_is_exported_where_it_is_kept(tmp_path: Path) -> None:
    job = job_in(tmp_path, KEPT_BY_ALL)
    assert job.shipped == "pruned" and job.student == tmp_path / "prune/model"
    job.records["heal_int8"] = record()  # not needed, or undone
    assert job.shipped == "pruned" and job.student == tmp_path / "prune/model"
    job.records["heal_int8"] = record("healed")
    assert job.shipped == "healed" and job.student == tmp_path / "heal_int8/model"


def test_settings_of_healing_are_its_stages_alone() -> None:
    off, on = Recipe(), Recipe(quantize=Quantize(heal=Heal(epochs=3)))
    assert settings_of(off, "quantize") == settings_of(on, "quantize")
    assert "heal" not in settings_of(on, "quantize")
    assert settings_of(on, "heal")["epochs"] == 3
    assert settings_of(replace(on, verify=Verify(task_loss=0.5)), "heal") != settings_of(on, "heal")
    assert settings_of(replace(on, verify=Verify(pool=20)), "heal") == settings_of(on, "heal")


def test_pruning_depends_on_words_of_few_bits_and_on_narrower_ones_alone() -> None:
    four, narrow, eight = Recipe(quantize=Quantize(word_bits=4)), Recipe(prune=Prune(embedding_size=64)), Recipe()
    assert settings_of(four, "prune") != settings_of(eight, "prune") != settings_of(narrow, "prune")
    assert not {"word_bits", "embedding_size"} & settings_of(eight, "prune").keys()


def test_nothing_depends_on_no_own_windows() -> None:
    none, half = Recipe(), Recipe(distill=Distill(own_windows=0.5))
    assert "own_windows" not in settings_of(none, "distill")
    assert settings_of(half, "distill")["own_windows"] == 0.5


def test_nothing_depends_on_a_window_of_one_token() -> None:
    plain, wide = Recipe(), Recipe(student=Student(token_window=3))
    assert "token_window" not in settings_of(plain, "student")
    assert settings_of(wide, "student")["token_window"] == 3
