"""A teacher's frozen layers: they learn nothing, drop nothing, and must be there."""

from pathlib import Path

import pytest
import torch
from tiny_training import SETTINGS, source_for, tiny_learner, world_arrays

from mtrec_edge_compress.teacher import freeze
from mtrec_edge_compress.training import fit
from mtrec_edge_runtime.errors import RecipeError


@pytest.mark.slow
def test_frozen_weights_stay_and_the_others_learn(tmp_path: Path) -> None:
    arrays = world_arrays()
    learner = tiny_learner(arrays, dropout=0.1)
    backbone = learner.model.text.backbone
    freeze(backbone, 1)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    fit(learner, source_for(learner, arrays), SETTINGS, folder=tmp_path, device="cpu")
    moved = {name for name, value in backbone.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith("encoder.layer.1.") for name in moved)


def test_frozen_layers_drop_nothing() -> None:
    backbone = tiny_learner(world_arrays(), dropout=0.1).model.text.backbone
    freeze(backbone, 1)
    frozen, free = (
        [module.p for module in part.modules() if isinstance(module, torch.nn.Dropout)]
        for part in (backbone.encoder.layer[0], backbone.encoder.layer[1])
    )
    assert set(frozen) == {0.0} and set(free) == {0.1}


def test_more_layers_than_there_are_is_an_error() -> None:
    backbone = tiny_learner(world_arrays()).model.text.backbone
    with pytest.raises(RecipeError, match=r"teacher\.frozen_layers = 3: BertModel has 2 layers"):
        freeze(backbone, 3)
