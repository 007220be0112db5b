"""What a search refuses: settings and spans that cannot be searched, encoders that cannot be had."""

from pathlib import Path

import pytest
from test_tune import Place, make_place, world

from mtrec_edge_compress.tune import tune
from mtrec_edge_runtime.errors import RecipeError, StageError


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return make_place(tmp_path, world())


@pytest.mark.parametrize(
    ("key", "span", "message"),
    [
        ("teacher.training.rate", "{low=1, high=2}", r"search\.teacher\.training\.rate: unknown key .*learning_rate"),
        (
            "student.layers",
            "{low=1, high=2}",
            r"search\.student\.layers: the teacher depends on .* model, weights, col",
        ),
        ("seed", "{low=1, high=2}", r"search\.seed: the teacher depends on"),
        ("weights.video.share", "{low=1, high=2}", r"weights\.video\.share: the dataset has no such task; it has "),
        ("model.dropout", "{low=0, high=2}", r"search\.model\.dropout: model\.dropout = 2\.0: write a number from 0"),
        ("model.dropout", "{low=0.2, high=0.1}", r"low = 0\.2, high = 0\.1: write low below high, or choices"),
        ("model.dropout", "{low=0, high=0.5, log=true}", r"log = true wants low above 0 and no step"),
        ("model.dropout", "{low=0, high=0.5, step=0.2}", r"step = 0\.2 does not lead from 0\.0 to 0\.5"),
        ("model.dropout", "{choices=[0.1], low=0.1}", r"write choices, or low and high, not both"),
        ("model.dropout", "{choices=[[0.1]]}", r"choices = \[\[0\.1\]\]: write numbers, strings or booleans"),
        ("model.dropout", "{min=0, max=1}", r"unknown key tune\.search\.model\.dropout\.min; the known ones are .*low"),
        ("teacher.layers", "{low=1.5, high=2}", r"search\.teacher\.layers: teacher\.layers = 1\.5: expected int"),
        ("teacher.layers", "{low=1, high=2, step=0.5}", r"search\.teacher\.layers: step = 0\.5: write a whole number"),
        ("teacher.encoder", "{low=1, high=2}", r"search\.teacher\.encoder: teacher\.encoder = 1\.0: expected str"),
        (
            "teacher.training.optimizer",
            "{choices=['adam']}",
            r"optimizer = 'adam': choose one of 'adamw', 'sgd', 'muon'",
        ),
    ],
)
def test_what_cannot_be_searched_is_told(place: Place, key: str, span: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        place.tune(f"tune.search.{key}={span}")
    assert not place.out.exists()


def test_a_given_encoder_is_not_searched_as_well(place: Place) -> None:
    (place.folder / "tiny.toml").write_text('[tune.search]\n"teacher.encoder" = { choices = ["a", "b"] }\n')
    with pytest.raises(RecipeError, match=r"--encoder gives what tune\.search\.teacher\.encoder searches"):
        tune(place.folder / "tiny.toml", data=place.folder / "data", out=place.out, encoder="c", progress=False)


def test_an_encoder_that_cannot_be_loaded_ends_the_search(place: Place) -> None:
    with pytest.raises(StageError, match="no tokenizer can be loaded"):
        place.tune(f"teacher.encoder={place.folder}")
