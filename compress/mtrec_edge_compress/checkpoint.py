"""A MultiTaskModel on disk: `model.json` (shapes, tasks, backbone) and `model.safetensors`. No pickle.

Writes are atomic, so a killed run never leaves half a checkpoint.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from mtrec_edge_compress.compact import CompactBert, CompactShape
from mtrec_edge_compress.data.schema import TaskSpec
from mtrec_edge_compress.model import ModelShape, MultiTaskModel
from mtrec_edge_runtime.errors import StageError
from mtrec_edge_runtime.integrity import hash_file
from mtrec_edge_runtime.tasks import Kind


def save_model(model: MultiTaskModel, folder: Path) -> None:
    """Write the model to `folder`, replacing what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    backbone = model.text.backbone
    if isinstance(backbone, CompactBert):
        stored: dict[str, Any] = {"compact": asdict(backbone.shape)}
    else:
        pretrained: PreTrainedModel = backbone
        stored = {"transformers": {**pretrained.config.to_dict(), "model_type": pretrained.config.model_type}}
    description = {
        "backbone": stored,
        "hidden_size": model.hidden_size,
        "shape": asdict(model.shape),
        "tasks": [asdict(task) for task in model.tasks],
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors.new")
    (folder / "model.json.new").write_text(json.dumps(description, indent=1))
    for name in ("model.safetensors", "model.json"):  # load_model looks for model.json, so that comes last
        (folder / f"{name}.new").replace(folder / name)


def load_model(folder: Path) -> MultiTaskModel:
    """Read a model written by `save_model`.

    Raises:
        StageError: the folder holds no model, or one whose tensors another version of the toolkit laid out.
    """
    try:
        description = json.loads((folder / "model.json").read_text())
    except FileNotFoundError as error:
        raise StageError(f"{folder} holds no model.json; the next step: run the stage that makes it again") from error
    tasks = tuple(_task(stored) for stored in description["tasks"])
    model = MultiTaskModel(
        _backbone(description["backbone"]), description["hidden_size"], ModelShape(**description["shape"]), tasks
    )
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except RuntimeError as error:
        found = " ".join(str(error).split())
        raise StageError(
            f"{folder} holds a model of another version ({found}); the next step: train it again with this one"
        ) from error
    return model.eval()


def _backbone(stored: dict[str, Any]) -> nn.Module:
    if "compact" in stored:
        shape = dict(stored["compact"])
        shape["layers"] = tuple((heads, units) for heads, units in shape["layers"])
        return CompactBert(CompactShape(**shape))
    config = dict(stored["transformers"])
    stored_config = AutoConfig.for_model(config.pop("model_type"), **config)
    return without_pooler(partial(AutoModel.from_config, stored_config))


def without_pooler(build: Callable[..., nn.Module]) -> nn.Module:
    """Build a transformers encoder without its pooler, which nothing here reads."""
    try:
        return build(add_pooling_layer=False)
    except TypeError:  # an architecture that has none
        return build()


def _task(stored: dict[str, Any]) -> TaskSpec:
    lists = {name: tuple(stored[name]) for name in ("behaviours", "labels")}
    return TaskSpec(**{**stored, **lists, "kind": Kind(stored["kind"])})


def count_parameters(module: nn.Module) -> int:
    """Return how many numbers the module holds."""
    return sum(parameter.numel() for parameter in module.parameters())


def model_hash(name: str) -> str:
    """Return the SHA-256 of a model folder's files, so that one that is trained again is another; a hub id as it is."""
    if not Path(name).is_dir() or not name:
        return name
    files = sorted(path for path in Path(name).iterdir() if path.is_file())
    listed = "".join(f"{path.name} {hash_file(path).sha256}\n" for path in files)
    return hashlib.sha256(listed.encode()).hexdigest()
