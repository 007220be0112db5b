"""Recipes: TOML and --set into frozen settings, with errors that name the way out."""

from dataclasses import replace
from pathlib import Path

import pytest

from mtrec_edge_compress.recipe import Budget, Prune, Recipe, settings_of
from mtrec_edge_compress.recipe_file import read_recipe, read_tiers
from mtrec_edge_compress.training_settings import Training
from mtrec_edge_runtime.errors import RecipeError

ROOT = Path(__file__).resolve().parent.parent


def read(tmp_path: Path, text: str, *overrides: str) -> Recipe:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return read_recipe(path, overrides)


def test_an_empty_recipe_is_the_defaults(tmp_path: Path) -> None:
    assert read(tmp_path, "") == Recipe()


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_loads(path: Path) -> None:
    assert read_recipe(path).name == path.stem


def test_tables_and_values_are_read(tmp_path: Path) -> None:
    recipe = read(
        tmp_path,
        'name = "mine"\n[weights]\n"movies.like" = 2\n[collaborate]\npenalties = [20, 600]\n'
        '[teacher.training]\nepochs = 7\ntrackers = ["tensorboard"]\n',
    )
    assert recipe.name == "mine" and recipe.weights == {"movies.like": 2.0}
    assert recipe.collaborate.penalties == (20.0, 600.0)
    assert recipe.teacher.training.epochs == 7 and recipe.teacher.training.trackers == ("tensorboard",)


def test_an_unknown_key_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"unknown key student\.depth; the known ones are .*student\.layers"):
        read(tmp_path, "[student]\ndepth = 3\n")
    with pytest.raises(RecipeError, match=r"unknown key pruning; the known ones are .*prune"):
        read(tmp_path, "[pruning]\nheads = 0.5\n")
    with pytest.raises(RecipeError, match=r"unknown key prune\.heal\.epoch; .*prune\.heal\.epochs"):
        read(tmp_path, "", "prune.heal.epoch=1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[student]\nlayers = "3"\n', r"student\.layers = '3': expected int, got str"),
        ("[student]\nlayers = 2.5\n", r"student\.layers = 2\.5: expected int, got float"),
        ("[student]\nlayers = true\n", r"student\.layers = True: expected int, got bool"),
        ("[quantize]\nreduce_range = 1\n", r"quantize\.reduce_range = 1: expected bool, got int"),
        ("student = 3\n", r"student must be a table, got 3"),
        ('[weights]\n"a.b" = "much"\n', r"weights\.a\.b = 'much': expected float, got str"),
        ('[teacher]\ndetached = "a.b"\n', r"teacher\.detached = 'a\.b': expected tuple, got str"),
        ('[teacher.training]\noptimizer = "adam"\n', r"optimizer = 'adam': choose one of 'adamw', 'sgd', 'muon'"),
        ('[collaborate]\npenalties = ["many"]\n', r"collaborate\.penalties\[0\] = 'many': expected float, got str"),
        ("[augment]\nunlabelled = [3]\n", r"augment\.unlabelled\[0\] = 3: expected str, got int"),
        ('[teacher.training]\ntrackers = "wandb"\n', r"trackers = 'wandb': expected tuple, got str"),
    ],
)
def test_a_wrong_type_is_told(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[teacher.training]\ndomain_temperature = 0\n", r"domain_temperature = 0\.0: write a number from 0\.1"),
        ("[teacher.training]\ntask_patience = -1\n", r"task_patience = -1: write a number from 0"),
        ("[prune]\nheads = 1.0\n", r"prune\.heads = 1\.0: write a number from 0\.0 to 0\.9"),
        ("[model]\nmax_tokens = 2\n", r"model\.max_tokens = 2: write a number from 8"),
        ("[teacher.training]\nepochs = 0\n", r"epochs = 0: write a number from 1"),
        ("[collaborate]\nlinks = -1\n", r"collaborate\.links = -1: write a number from 0 to 1000"),
        ("[collaborate]\nparts = 1\n", r"collaborate\.parts = 1: write a number from 2 to 100"),
        ("[collaborate]\ntuning_users = 0\n", r"collaborate\.tuning_users = 0: write a number from 1"),
        ("[collaborate]\npenalties = []\n", r"collaborate\.penalties = \(\): write at least one number above 0"),
        ("[collaborate]\npenalties = [20, 0]\n", r"collaborate\.penalties = \(20\.0, 0\.0\): write at least"),
        ("[prune]\nimportance_steps = 0\n", r"prune\.importance_steps = 0: write a number from 1"),
        ("[evaluation]\nusers_per_domain = -1\n", r"evaluation\.users_per_domain = -1: write a number from 0"),
        ("[student]\nembedding_size = 30\n[quantize]\nword_bits = 2\n", r"embedding_size = 30: .* a multiple of 4"),
        ("[prune]\nembedding_size = 7\n[quantize]\nword_bits = 4\n", r"embedding_size = 7: .* a multiple of 2"),
        ("[student]\ntoken_window = 4\n", r"student\.token_window = 4: it is odd"),
        ("[student]\nembedding_size = -1\n", r"student\.embedding_size = -1: write a number from 0"),
        ("[distill]\nvector_weight = -1\n", r"distill\.vector_weight = -1\.0: write a number from 0"),
        ("[verify]\nretention = nan\n", r"verify\.retention = nan: write a number from"),
        ("[teacher.training]\nsave_minutes = -1\n", r"save_minutes = -1\.0: write a number from 0"),
        ("[teacher.training]\ntargets = 2\nfresh_targets = 3\n", r"fresh_targets = 3: write a number from 0 to 2"),
        ("[teacher.training]\nlearning_rate = nan\n", r"learning_rate = nan"),
        ("[cross_encoder]\nwindows = -1\n", r"cross_encoder\.windows = -1: write a number from 0"),
        ("[cross_encoder]\nmax_tokens = 32\nevents = 9\n", r"cross_encoder\.events = 9: write a number from 1 to 6"),
        ("[quantize.heal]\nepochs = -1\n", r"quantize\.heal\.epochs = -1: write a number from 0"),
        ("[quantize.heal]\nlearning_rate = -1\n", r"quantize\.heal\.learning_rate = -1\.0: write a number from 0"),
        ("[budget]\nmax_mb = -1\n", r"budget\.max_mb = -1\.0: write a number from 0\.0"),
        ("[budget]\nretention_worst = 98\n", r"budget\.retention_worst = 98\.0: write a number from 0\.0 to 1\.0"),
        ('[budget.max_drop]\n"a.b" = 1.5\n', r"budget\.max_drop\.a\.b = 1\.5: write a number from 0\.0 to 1\.0"),
        ("[prune.heal]\nweighting = 'dwa'\n", r"prune\.heal\.weighting = 'dwa': only a teacher's losses are"),
        ("[distill.tasks]\nweighting = 'pcgrad'\n", r"distill\.tasks\.weighting = 'pcgrad': only a teacher's"),
        ("[teacher.training]\nweight_decay = -1\n", r"weight_decay = -1\.0: write a number from 0"),
        ('[teacher.training]\ntrackers = ["mlflow"]\n', r"tracker 'mlflow' is unknown; write tensorboard or wandb"),
    ],
)
def test_a_value_out_of_range_is_told(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read(tmp_path, text)


def test_how_a_training_is_saved_and_told_of_changes_nothing() -> None:
    plain = Recipe()
    told = replace(plain.teacher.training, save_minutes=1.0, trackers=("tensorboard",))
    assert settings_of(replace(plain, teacher=replace(plain.teacher, training=told)), "teacher") == settings_of(
        plain, "teacher"
    )
    slower = replace(plain.teacher.training, learning_rate=1e-6)
    assert settings_of(replace(plain, teacher=replace(plain.teacher, training=slower)), "teacher") != settings_of(
        plain, "teacher"
    )


def test_a_negative_seed_is_told() -> None:
    with pytest.raises(RecipeError, match=r"seed = -1: write a number from 0 to 4294967295"):
        Recipe(seed=-1)


def test_settings_made_in_python_are_checked_too() -> None:
    with pytest.raises(RecipeError, match=r"prune\.units = 0\.99"):
        Prune(units=0.99)
    with pytest.raises(RecipeError, match="epochs = 0"):
        Training(epochs=0)


def test_healing_of_int8_trains_as_prune_does_but_for_what_it_says(tmp_path: Path) -> None:
    assert Recipe().quantize.heal.epochs == 0  # off
    recipe = read(tmp_path, "[prune.tasks]\nusers = 8\n[quantize.heal]\nepochs = 2\nlearning_rate = 1e-4\n")
    tasks = recipe.prune.tasks
    assert recipe.quantize.heal.training(tasks) == replace(tasks, epochs=2, learning_rate=1e-4)
    with pytest.raises(RecipeError, match=r"unknown key quantize\.heal\.users; the known ones are .*heal\.epochs"):
        read(tmp_path, "[quantize.heal]\nusers = 8\n")


def test_set_overrides_nested_values(tmp_path: Path) -> None:
    recipe = read(tmp_path, "[student]\nlayers = 3\n", "student.layers=2", "prune.heal.learning_rate=1e-4", "name=mine")
    assert recipe.student.layers == 2 and recipe.prune.heal.learning_rate == 1e-4 and recipe.name == "mine"


def test_set_takes_a_task_name_with_its_dot(tmp_path: Path) -> None:
    recipe = read(tmp_path, '[weights]\n"movies.like" = 1.0\n', "weights.movies.like=3", "weights.music.listen=0.5")
    assert recipe.weights == {"movies.like": 3.0, "music.listen": 0.5}


def test_set_takes_lists_and_choices(tmp_path: Path) -> None:
    recipe = read(tmp_path, "", 'teacher.training.trackers=["wandb"]', "bundle.catalogue=student")
    assert recipe.teacher.training.trackers == ("wandb",) and recipe.bundle.catalogue == "student"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("student.layers", "write it as key=value"),
        ("=3", "write it as key=value"),
        ("name.first=3", "name is a value, not a table"),
        ("student.layers=many", r"student\.layers = 'many': expected int"),
    ],
)
def test_a_malformed_set_is_told(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read(tmp_path, 'name = "x"\n', override)


def test_a_missing_file_and_no_toml_are_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"there is no recipe .*none\.toml; the next step"):
        read_recipe(tmp_path / "none.toml")
    with pytest.raises(RecipeError, match="is not TOML"):
        read(tmp_path, "a = = 1")


TIERS = """
name = "mine"
[student]
layers = 3
[budget.max_drop]
"movies.like" = 0.02
[tiers.tiny]
"student.layers" = 2
budget = { max_mb = 3.2, max_drop = { "movies.rating" = 0.05 } }
[tiers.nano.student]
layers = 1
[tiers.nano.quantize]
reduce_range = false
"""


def tiers(tmp_path: Path, text: str, names: list[str], *overrides: str) -> dict[str, Recipe]:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return read_tiers(path, names, overrides)


def test_a_tier_is_the_recipe_with_its_own_settings_over_it(tmp_path: Path) -> None:
    found = tiers(tmp_path, TIERS, ["nano", "tiny"])
    assert list(found) == ["nano", "tiny"]
    assert found["tiny"].name == "mine-tiny" and found["tiny"].student.layers == 2
    assert found["tiny"].budget == Budget(max_mb=3.2, max_drop={"movies.like": 0.02, "movies.rating": 0.05})
    assert found["nano"].student.layers == 1 and found["nano"].quantize.reduce_range is False
    assert found["nano"].budget == Budget(max_drop={"movies.like": 0.02}) and found["nano"].tiers == {}


def test_the_command_line_is_over_every_tier_or_in_one(tmp_path: Path) -> None:
    found = tiers(
        tmp_path,
        TIERS,
        ["tiny", "nano"],
        "student.layers=4",
        "budget.max_drop.movies.like=0.01",
        "tiers.tiny.budget.max_ms=9",
    )
    assert [recipe.student.layers for recipe in found.values()] == [4, 4]
    assert [recipe.budget.max_drop["movies.like"] for recipe in found.values()] == [0.01, 0.01]
    assert [recipe.budget.max_ms for recipe in found.values()] == [9.0, 0.0]


def test_an_unknown_tier_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no tier 'huge': the recipe has tiny, nano"):
        tiers(tmp_path, TIERS, ["tiny", "huge"])
    with pytest.raises(
        RecipeError, match=r"no tier 'tiny': the recipe has none; the next step: write a table \[tiers\.tiny"
    ):
        tiers(tmp_path, "", ["tiny"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tiers.a.teacher.training]\nepochs = 1\n", r"tiers\.a\.teacher\.training\.epochs: tiers share it"),
        ("[tiers.a]\nseed = 1\n", r"tiers\.a\.seed: tiers share it as they share the teacher; set it in the recipe"),
        ("[tiers.a.student]\ndepth = 1\n", r"tiers\.a: unknown key student\.depth; the known ones are"),
        ("[tiers.a.student]\nlayers = 0\n", r"tiers\.a: student\.layers = 0: write a number from 1"),
        ('[tiers."a/b".student]\nlayers = 1\n', r"tiers\.a/b: a tier's folder has its name; write letters"),
        ("[tiers]\na = 3\n", r"tiers\.a = 3: expected dict, got int"),
    ],
)
def test_a_tier_is_checked_whenever_the_recipe_is_read(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read(tmp_path, text)
