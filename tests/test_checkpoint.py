"""A model on disk is the model that was saved, whatever its backbone; a killed save leaves the old one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import MAX_TOKENS, SHAPE, TASKS, VOCABULARY, student_model
from torch import nn
from transformers import BertConfig, BertModel, MPNetConfig, MPNetModel

from mtrec_edge_compress.checkpoint import count_parameters, load_model, save_model, without_pooler
from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_runtime.errors import StageError

SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def bert() -> MultiTaskModel:
    config = BertConfig(**SIZES, intermediate_size=64, max_position_embeddings=MAX_TOKENS)
    return MultiTaskModel(BertModel(config, add_pooling_layer=False), 32, SHAPE, TASKS).eval()


def mpnet() -> MultiTaskModel:
    config = MPNetConfig(**SIZES, intermediate_size=64, max_position_embeddings=MAX_TOKENS + 2)
    return MultiTaskModel(MPNetModel(config, add_pooling_layer=False), 32, SHAPE, TASKS).eval()


def outputs(model: MultiTaskModel) -> dict[str, torch.Tensor]:
    ids = torch.arange(2 * 7).reshape(2, 7) + 5
    integers, ones = torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3)
    generator = torch.Generator().manual_seed(0)
    history, candidates = torch.randn(2, 3, 16, generator=generator), torch.randn(2, 4, 16, generator=generator)
    with torch.no_grad():
        others = candidates, torch.ones(2, 4, 3), torch.ones(2, 4, 3)
        ranked = model.rank(history, integers, ones, integers, integers + 1, *others)
        return {**model.encode(ids, torch.ones_like(ids)), **ranked}


@pytest.mark.parametrize("make", [bert, mpnet, student_model])
def test_a_loaded_model_computes_what_the_saved_one_did(make: Callable[[], MultiTaskModel], tmp_path: Path) -> None:
    model = make()
    model.center.fill_(3.0)
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.tasks == model.tasks and loaded.shape == model.shape and not loaded.training
    assert count_parameters(loaded) == count_parameters(model)
    found, expected = outputs(loaded), outputs(model)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_saving_replaces_what_is_there_and_leaves_no_litter(tmp_path: Path) -> None:
    save_model(student_model(seed=0), tmp_path)
    model = student_model(seed=1)
    save_model(model, tmp_path)
    assert torch.equal(load_model(tmp_path).text.projection.weight, model.text.projection.weight)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors"]


def test_a_save_that_fails_leaves_the_old_model(tmp_path: Path) -> None:
    model = student_model(seed=0)
    save_model(model, tmp_path)
    broken = student_model(seed=1)
    broken.text.projection.register_buffer("no_file_holds", torch.zeros(1, device="meta"))
    with pytest.raises((RuntimeError, NotImplementedError)):
        save_model(broken, tmp_path)
    assert torch.equal(load_model(tmp_path).text.projection.weight, model.text.projection.weight)


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"holds no model\.json; the next step"):
        load_model(tmp_path)


def test_parameters_are_counted() -> None:
    assert count_parameters(nn.Linear(3, 2)) == 3 * 2 + 2


def test_an_encoder_comes_without_the_pooler_nothing_reads() -> None:
    config = BertConfig(**SIZES, intermediate_size=64)
    assert BertModel(config).pooler is not None
    assert without_pooler(lambda **options: BertModel(config, **options)).pooler is None
    assert isinstance(without_pooler(lambda: nn.Linear(2, 2)), nn.Linear)


def test_a_model_of_another_version_says_what_to_do(tmp_path: Path) -> None:
    save_model(student_model(), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["match.sharpness"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(StageError, match=r"holds a model of another version \(.*match\.sharpness.*\); the next step"):
        load_model(tmp_path)
