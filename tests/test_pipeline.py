"""The pipeline: a killed run goes on at the next stage, a changed setting remakes what depends on it, nothing else."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from tiny_models import dataset
from tiny_pipeline import NAMES, RECIPE, Place

from mtrec_edge_compress.bundle import device_bytes
from mtrec_edge_compress.data.arrays import LAYOUT, build_arrays
from mtrec_edge_compress.encoding import load_encoded
from mtrec_edge_compress.pipeline import CROSS_ENCODER, Result, open_job
from mtrec_edge_compress.recipe import Model, Recipe
from mtrec_edge_compress.run_options import RunOptions
from mtrec_edge_compress.teacher import small_random_bert
from mtrec_edge_runtime import Recommender
from mtrec_edge_runtime.errors import RecipeError, StageError
from mtrec_edge_runtime.manifest import read_manifest
from mtrec_edge_runtime.results import read_result

pytestmark = pytest.mark.slow


def kill_after(place: Place, stage: str) -> None:
    """Start a run in a process of its own and kill it when the stage is done."""
    code = "import sys; from pathlib import Path; from tiny_pipeline import Place; Place(Path(sys.argv[1])).run()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(place.folder)], cwd=Path(__file__).parent, env=dict(os.environ)
    )
    while process.poll() is None and not (place.work / stage / "stage.json").is_file():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.fixture(scope="module")
def killed_and_resumed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, dict[str, int], Result]:
    """A run that was killed after `distill` and run again: place, what was done at the kill, result."""
    place = Place(tmp_path_factory.mktemp("pipeline"))
    dataset().write(place.folder / "data")
    (place.folder / "tiny.toml").write_text(RECIPE)
    kill_after(place, "distill")
    return place, place.made(), place.run()


@pytest.fixture
def place(killed_and_resumed: tuple[Place, dict[str, int], Result], tmp_path: Path) -> Place:
    """A copy of the finished run, times included."""
    return Place(Path(shutil.copytree(killed_and_resumed[0].folder, tmp_path / "copy")))


def remade(place: Place, before: dict[str, int]) -> Sequence[str]:
    return [name for name, when in place.made().items() if when != before[name]]


def test_a_killed_run_goes_on_at_the_next_stage(
    killed_and_resumed: tuple[Place, dict[str, int], Result],
) -> None:
    place, at_the_kill, result = killed_and_resumed
    assert list(at_the_kill) == ["collaborate", "teacher", "augment", "distill"]
    made = place.made()
    assert tuple(made) == NAMES and not (place.work / "heal_int8").exists()
    assert {name: made[name] for name in at_the_kill} == at_the_kill
    assert result.certified, result.reasons


def test_the_run_leaves_a_bundle_a_ledger_and_a_table(
    killed_and_resumed: tuple[Place, dict[str, int], Result],
) -> None:
    place, _, result = killed_and_resumed
    recommender = Recommender(place.folder / "bundle")
    assert len(recommender.rank(["m1", "m2"], task="movies.like", k=3)) == 3
    assert 0 < len(recommender.catalogue.neighbours) <= 4 * 30  # at most 4 a movie
    stored = read_result(place.work / "ledger.json")
    assert list(stored["stages"]) == ["teacher", "student", "pruned", "onnx_fp32", "int8_fast", "int8_exact"]
    for stage in stored["stages"].values():
        assert stage["parameters"] > 0 and stage["size_bytes"] > 0 and stage["latency_ms"]["16"]["p50"] > 0
    assert len(result.ledger_text.splitlines()) == 1 + 6 + 5  # a head, a line a stage, the teacher's catalogue
    page = result.report.read_text(encoding="utf-8")
    assert "Certified." in page and page.count("<svg") == 6 and result.report.with_suffix(".md").is_file()
    assert stored["stages"]["pruned"]["parameters"] < stored["stages"]["student"]["parameters"]
    for stage in ("student", "pruned"):
        near = next(note for note in stored["notes"] if note.startswith(f"{stage}_vectors: cosine to the teacher "))
        assert near.endswith(" on others") and all(0.3 < float(x) <= 1 for x in re.findall(r"\d\.\d{3}", near))


def test_a_finished_run_makes_nothing_again(place: Place) -> None:
    before = place.made()
    result = place.run()
    assert remade(place, before) == [] and result.certified


def test_a_changed_prune_setting_keeps_teacher_and_student(place: Place) -> None:
    before = place.made()
    place.run("prune.units=0.25")
    assert remade(place, before) == list(NAMES[NAMES.index("prune") :])


def test_healing_of_int8_remakes_what_is_exported_and_off_again_the_run_is_as_before(place: Place) -> None:
    before = place.made()
    place.run("quantize.heal.learning_rate=1e-3")  # of a stage that is off
    assert remade(place, before) == []
    result = place.run("quantize.heal.epochs=1", "verify.label_agreement=1.01")
    assert remade(place, before) == list(NAMES[NAMES.index("export") :])
    facts = json.loads((place.work / "heal_int8/stage.json").read_text())["facts"]
    kept = facts["int8 healing"] == "kept"
    assert kept == ("healed" in result.ledger["stages"]) == (place.work / "heal_int8/model").exists()
    assert not any("torch and FP32 ONNX differ" in reason for reason in result.reasons)
    assert any(note.startswith("int8 loss before healing: ") for note in result.ledger["notes"])
    again = place.run()
    assert again.certified and "healed" not in again.ledger["stages"]


def test_a_changed_weight_remakes_the_teacher_and_what_follows(place: Place) -> None:
    before = place.made()
    place.run("weights.movies.like=2")
    assert remade(place, before) == list(NAMES[1:])


def test_without_links_everything_is_made_again_and_the_bundle_has_none(place: Place) -> None:
    before = place.made()
    place.run("collaborate.links=0")
    assert remade(place, before) == list(NAMES)
    links = np.load(place.folder / "bundle/catalogue/neighbour_items.npy")
    assert links.shape == (0,) and Recommender(place.folder / "bundle")


def test_what_is_not_certified_says_why_and_is_bundled_as_such(place: Place) -> None:
    before = place.made()
    result = place.run("verify.fp32_max_abs=0")
    assert remade(place, before) == ["verify", "bundle"]
    assert not result.certified
    assert "torch and FP32 ONNX differ by" in result.reasons[0] and "the next step" in result.reasons[0]
    manifest = read_manifest(place.folder / "bundle")
    assert manifest.certified is False and manifest.reasons == result.reasons


def test_a_budget_that_is_missed_is_a_reason_and_made_anew_is_the_bundle_alone(place: Place) -> None:
    before = place.made()
    result = place.run("budget.max_mb=0.01", "budget.max_ms=0.0001", "budget.max_drop.movies.like=0")
    assert remade(place, before) == ["bundle"]
    assert not result.certified
    time_limit, *quality, size = result.reasons
    assert time_limit.startswith("INT8 fast takes ") and "ms a text (limit 0.0001 ms); the next step" in time_limit
    assert all(reason.startswith("movies.like: ") for reason in quality)
    assert size.startswith("the bundle without its catalogue has ") and "(limit 0.01 MB)" in size
    manifest = read_manifest(place.folder / "bundle")
    assert manifest.certified is False and manifest.reasons == result.reasons


def test_a_budget_of_a_task_that_is_not_there_is_told_before_anything_is_made(place: Place) -> None:
    before = place.made()
    with pytest.raises(RecipeError, match=r"budget\.max_drop\.movies\.share: the dataset has no such task; it has m"):
        place.run("budget.max_drop.movies.share=0.1")
    assert remade(place, before) == []


def test_what_the_encoder_cannot_read_is_told_before_anything_is_made(place: Place) -> None:
    before = place.made()
    small_random_bert(Recipe(model=Model(max_tokens=16)), build_arrays(dataset()), place.folder / "bert")
    with pytest.raises(RecipeError, match=r"model\.max_tokens = 512, but .* reads at most \d+ tokens"):
        place.run(f"teacher.encoder={place.folder / 'bert'}", "model.max_tokens=512")
    assert remade(place, before) == []


def test_a_student_without_a_teacher_changes_nothing_that_ships(place: Place) -> None:
    before = place.made()
    place.run("untaught.compare=true")
    assert remade(place, before) == ["untaught", "bundle"]
    assert "untaught" in read_result(place.work / "ledger.json")["stages"]


def test_an_encoder_that_no_student_can_start_from_is_told_before_anything_is_made(place: Place) -> None:
    before = place.made()
    with pytest.raises(StageError, match=r"the folder has no config\.json.*; the next step"):
        place.run(f"student.encoder={place.folder / 'data'}")
    assert remade(place, before) == []


def test_tiers_share_one_teacher_and_each_has_its_bundle(place: Place) -> None:
    before = place.made()
    with (place.folder / "tiny.toml").open("a") as recipe:
        recipe.write(
            "[tiers.unpruned.prune]\nheads = 0.0\nunits = 0.0\n"
            "[tiers.nano]\nbudget = { max_mb = 0.01, min_speedup = 1e5 }\nstudent = { layers = 1, heads = 1 }\n"
            "untaught = { compare = true, training = { epochs = 1, users = 4, texts = 8 } }\n"
        )
    found = place.run_tiers("unpruned", "nano")
    assert remade(place, before) == []  # neither the teacher nor the run that was no tier
    assert not list(place.work.glob("tiers/*/teacher")) and not list(place.work.glob("tiers/*/collaborate"))
    stored = read_result(found.path)["tiers"]
    assert list(stored) == ["unpruned", "nano"]
    assert stored["nano"]["bytes"]["encoder"] < stored["unpruned"]["bytes"]["encoder"]
    reference = (place.work / "bert-base.onnx").stat().st_size
    for name, tier in stored.items():
        bundle = place.folder / "bundles" / name
        assert Recommender(bundle) and tier["size_bytes"] == device_bytes(bundle)
        assert tier["size_ratio"] == pytest.approx(reference / tier["size_bytes"], abs=0.01)
        assert tier["latency_ratio"] > 0 and tier["latency_ms"]["16"]["p50"] > 0
    assert stored["unpruned"]["certified"] and not stored["nano"]["certified"] and not found.certified
    assert [reason.split("(limit")[1][:8] for reason in found.reasons] == [" 100000x", " 0.01 MB"]
    assert all(reason.startswith("nano: ") for reason in found.reasons)
    alone = read_result(place.work / "tiers/nano/ledger.json")["stages"]
    assert alone["untaught"]["parameters"] == alone["pruned"]["parameters"] and "untaught" in stored["nano"]
    assert "untaught" not in stored["unpruned"]
    again = {path: path.stat().st_mtime_ns for path in place.work.rglob("stage.json")}
    place.run_tiers("nano", "unpruned")
    assert again == {path: path.stat().st_mtime_ns for path in place.work.rglob("stage.json")}


def test_tiers_are_not_written_into_a_bundle(place: Place) -> None:
    (place.folder / "bundle").rename(place.folder / "bundles")
    with (place.folder / "tiny.toml").open("a") as recipe:
        recipe.write("[tiers.nano]\nstudent = { layers = 1 }\n")
    with pytest.raises(StageError, match="is a bundle, and tiers want a folder for theirs; the next step: choose"):
        place.run_tiers("nano")


def test_a_bundle_that_was_removed_is_written_again(place: Place) -> None:
    before = place.made()
    shutil.rmtree(place.folder / "bundle")
    place.run()
    assert remade(place, before) == ["bundle"] and Recommender(place.folder / "bundle")


def test_a_bundle_that_another_run_wrote_is_written_again(place: Place) -> None:
    before, manifest = place.made(), place.folder / "bundle/manifest.json"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace('"name": "', '"name": "another ', 1), "utf-8")
    place.run()
    assert remade(place, before) == ["bundle"]
    assert not read_manifest(place.folder / "bundle").name.startswith("another")


def test_a_teacher_that_was_trained_again_where_it_was_teaches_again(place: Place) -> None:
    given = Path(shutil.copytree(place.work / "teacher/model", place.folder / "given"))
    arrays, options = build_arrays(dataset()), RunOptions("hub/bert", (given,), "cpu")
    _, before = open_job(Recipe("tiny"), arrays, out=place.folder / "bundle", options=options)
    weights = load_file(given / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, given / "model.safetensors")
    _, after = open_job(Recipe("tiny"), arrays, out=place.folder / "bundle", options=options)
    assert before.pop("teachers") != after.pop("teachers") and before == after


def test_a_trained_teacher_can_be_given(place: Place) -> None:
    other = Place(place.folder / "other")
    other.folder.mkdir()
    for name in ("data", "tiny.toml"):
        (other.folder / name).symlink_to(place.folder / name)
    given = other.run("prune.units=0.0", "prune.heads=0.0", teachers=(place.work / "teacher/model",))
    assert not (other.work / "teacher/training").exists()
    expected = json.loads((place.work / "teacher/stage.json").read_text())["rows"][0]["tasks"]
    found = given.ledger["stages"]["teacher"]["tasks"]
    assert found.keys() == expected.keys()
    assert all(found[task] == pytest.approx(metrics, rel=1e-5) for task, metrics in expected.items())


def test_several_teachers_are_fused_and_the_first_gives_the_vectors(place: Place) -> None:
    first = place.work / "teacher/model"
    second = Path(shutil.copytree(first, place.folder / "second"))
    other = Place(place.folder / "other")
    other.folder.mkdir()
    for name in ("data", "tiny.toml"):
        (other.folder / name).symlink_to(place.folder / name)
    result = other.run("prune.units=0.0", "prune.heads=0.0", teachers=(first, second))
    soft, own = (load_encoded(other.work / "teacher" / name) for name in ("fused/soft", "encoded"))
    assert np.array_equal(soft.vectors, own.vectors)
    for task, logits in own.logits.items():  # too few labels for a temperature: the mean of equals
        assert np.allclose(soft.logits[task], logits, atol=1e-6)
    assert "fused with" in result.report.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("teachers", "expected"),
    [
        ((), []),
        (("/a",), ["/a"]),
        (("/a", "/b", "/c"), ["/a", "/b", "/c"]),
    ],
)
def test_what_fingerprints_begin_with_does_not_change_between_versions(
    tmp_path: Path, teachers: tuple[str, ...], expected: list[str]
) -> None:
    options = RunOptions("hub/bert", tuple(map(Path, teachers)), "cpu")
    job, settings = open_job(Recipe("tiny"), build_arrays(dataset()), out=tmp_path / "bundle", options=options)
    assert settings == {
        "data": dataset().content_hash(),
        "layout": LAYOUT,
        "encoder": "hub/bert",
        "teachers": expected,
    }
    assert job.work == tmp_path / "bundle.work"


def test_a_cross_encoder_is_compared_with_the_tower_and_teaches_the_student(place: Place) -> None:
    before = place.made()
    assert not (place.work / CROSS_ENCODER).exists()
    student = (place.work / "distill/model/model.safetensors").read_bytes()
    settings = "windows = 8, events = 2, max_tokens = 16, targets = 2, negatives = 2, candidates = 5, steps = 2"
    place.run(f"cross_encoder={{ {settings}, users = 4, precision = 'fp32' }}")
    assert remade(place, before) == list(NAMES[NAMES.index("distill") :])
    compared = json.loads((place.work / CROSS_ENCODER / "comparison.json").read_text())["tasks"]
    assert list(compared["movies.like"]["auc"]) == ["tower", "cross_encoder", "mean"] and "movies.rating" in compared
    assert any("cross-encoder, movies.rating rmse" in note for note in read_result(place.work / "ledger.json")["notes"])
    assert np.load(place.work / CROSS_ENCODER / "pairs/scores.npy").shape[:2] == (8, 4)
    assert (place.work / "distill/model/model.safetensors").read_bytes() != student


def test_a_weight_of_a_task_that_is_not_there_is_told(place: Place) -> None:
    with pytest.raises(RecipeError, match=r"weights\.movies\.share: the dataset has no such task; it has movies\.rat"):
        place.run("weights.movies.share=2")
    with pytest.raises(
        RecipeError, match=r"teacher\.detached: the dataset has no task 'movies\.share'; it has movies\.r"
    ):
        place.run('teacher.detached=["movies.share"]')


def test_an_encoder_that_cannot_be_loaded_is_told(place: Place) -> None:
    (place.folder / "empty").mkdir()
    message = r"from '.*empty' \(the folder has no config\.json\); the next step: give a hub id"
    with pytest.raises(StageError, match=message):
        place.run(f"teacher.encoder={place.folder / 'empty'}")
