"""`teacher`: fine-tune the BERT multi-task teacher."""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import transformers
from torch import Tensor
from transformers import AutoModel, BertConfig, BertModel, BertTokenizer, PreTrainedModel

from mtrec_edge_compress.batches import BatchSource
from mtrec_edge_compress.checkpoint import without_pooler
from mtrec_edge_compress.collaboration import Collaboration
from mtrec_edge_compress.data.arrays import Arrays
from mtrec_edge_compress.device import Device
from mtrec_edge_compress.fusion import word_rows
from mtrec_edge_compress.learner import ALIGNMENT, Learner
from mtrec_edge_compress.model import ModelShape, MultiTaskModel
from mtrec_edge_compress.pair_learner import centre_outputs
from mtrec_edge_compress.recipe import Recipe
from mtrec_edge_compress.text_labels import TextLabels
from mtrec_edge_compress.tokens import Tokens, open_tokenizer
from mtrec_edge_compress.training import Validate, fit
from mtrec_edge_compress.unread import unread_items
from mtrec_edge_compress.vocabulary import word_vocabulary
from mtrec_edge_compress.weighting import TaskWeighting
from mtrec_edge_runtime.errors import RecipeError, StageError

MOST_UNUSED_WORDS = 1024  # tables of words are padded to round sizes, or hold some that no tokenizer gives


def small_random_bert(recipe: Recipe, arrays: Arrays, folder: Path) -> str:
    """Write an untrained small BERT as a `transformers` folder and return its path.

    Its words are those of the texts that training may read: strict cold items and held-out texts shape nothing.
    """
    texts = [*arrays.item_texts, *arrays.texts]
    readable = [texts[row] for row in TextLabels(arrays).pool(every_text=True)]
    vocabulary = word_vocabulary(readable, recipe.teacher.vocabulary)
    folder.mkdir(parents=True, exist_ok=True)
    words = folder / "vocab.txt"
    words.write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    BertTokenizer(str(words), do_lower_case=True).save_pretrained(folder)
    size = recipe.teacher.hidden_size
    torch.manual_seed(recipe.seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=size,
        num_hidden_layers=recipe.teacher.layers,
        num_attention_heads=max(1, size // 32),
        intermediate_size=4 * size,
        max_position_embeddings=max(wanted for _, wanted in _lengths(recipe)),
        hidden_dropout_prob=recipe.model.dropout,
        attention_probs_dropout_prob=recipe.model.dropout,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return str(folder)


SAID = 200  # characters of transformers' own errors, which may name every model it knows


def load_backbone(encoder: str) -> PreTrainedModel:
    """Load a pretrained encoder by hub id or folder, without its pooler.

    Raises:
        StageError: it cannot be loaded.
    """
    # on a CPU the backward pass of torch's fused attention takes several times the plain one's
    attention = "sdpa" if torch.cuda.is_available() else "eager"
    transformers.utils.logging.set_verbosity_error()  # else it warns of the pooler that is left out on purpose
    try:
        return without_pooler(partial(AutoModel.from_pretrained, encoder, attn_implementation=attention)).float()
    except (OSError, ValueError) as error:
        raise StageError(
            f"no encoder can be loaded from {encoder!r} ({str(error)[:SAID]}); the next step: give a hub id that can "
            "be reached, or a folder with config.json and model.safetensors"
        ) from error


def new_teacher(recipe: Recipe, arrays: Arrays, encoder: str) -> MultiTaskModel:
    """Return an untrained teacher on a pretrained backbone."""
    torch.manual_seed(recipe.seed)
    backbone = load_backbone(encoder)
    check_lengths(recipe, backbone, encoder)
    freeze(backbone, recipe.teacher.frozen_layers)
    shape = ModelShape(
        recipe.model.vector_size,
        recipe.model.max_history,
        len(arrays.behaviours),
        recipe.model.user_heads,
        recipe.model.task_hidden,
        recipe.model.dropout,
    )
    return MultiTaskModel(backbone, backbone.config.hidden_size, shape, arrays.tasks)


def freeze(backbone: PreTrainedModel, layers: int) -> None:
    """Leave the word table and the first `layers` layers as they are, without dropout: nothing is learned there.

    Raises:
        RecipeError: the encoder has no such layers to freeze.
    """
    if not layers:
        return
    found = getattr(getattr(backbone, "encoder", None), "layer", None)
    if found is None or layers > len(found):
        raise RecipeError(
            f"teacher.frozen_layers = {layers}: {type(backbone).__name__} has "
            f"{'no list of layers' if found is None else f'{len(found)} layers'}; the next step: a smaller number, or 0"
        )
    for part in (backbone.embeddings, *found[:layers]):
        part.requires_grad_(False)
        for module in part.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if hasattr(module, "dropout_prob"):  # of fused attention
                module.dropout_prob = 0.0


def task_weights(recipe: Recipe, arrays: Arrays) -> dict[str, float]:
    """Return every task's lambda: the recipe's, else the dataset's.

    Raises:
        RecipeError: the recipe weighs a task that the dataset does not have, or weighs one below 0.
    """
    known = {task.name: task.weight for task in arrays.tasks}
    for name in recipe.weights:
        if name not in known:
            raise RecipeError(f"weights.{name}: the dataset has no such task; it has {', '.join(known)}")
        if not 0 <= recipe.weights[name] < math.inf:
            raise RecipeError(f"weights.{name} = {recipe.weights[name]}: write a number >= 0")
    return {**known, **recipe.weights}


def check_encoder(recipe: Recipe, encoder: str) -> PreTrainedModel:
    """Return a teacher's encoder; refuse, before anything is made, one that cannot be loaded or reads too little."""
    open_tokenizer(encoder)
    backbone = load_backbone(encoder)
    check_lengths(recipe, backbone, encoder)
    return backbone


def check_lengths(recipe: Recipe, backbone: PreTrainedModel, encoder: str) -> None:
    """Raise RecipeError when the recipe asks the encoder for longer texts than it reads."""
    for name, wanted in _lengths(recipe):
        longest = getattr(backbone.config, "max_position_embeddings", wanted)
        if longest < wanted:
            raise RecipeError(f"{name} = {wanted}, but {encoder} reads at most {longest} tokens; write at most that")


def _lengths(recipe: Recipe) -> list[tuple[str, int]]:
    """Return the settings that say how many tokens the teacher's encoder reads."""
    found = [("model.max_tokens", recipe.model.max_tokens)]
    if recipe.cross_encoder.windows:
        found.append(("cross_encoder.max_tokens", recipe.cross_encoder.max_tokens))
    return found


def check_detached(recipe: Recipe, arrays: Arrays) -> None:
    """Raise RecipeError when the recipe detaches a task that the dataset does not have."""
    known = [task.name for task in arrays.tasks]
    for name in recipe.teacher.detached:
        if name not in known:
            raise RecipeError(f"teacher.detached: the dataset has no task {name!r}; it has {', '.join(known)}")


def check_given(model: MultiTaskModel, path: Path, recipe: Recipe, arrays: Arrays, *, words: int) -> None:
    """Raise StageError, naming what differs, unless a trained teacher answers this dataset's questions.

    `words` is the size of the vocabulary that texts are read with.
    """
    learnt = [task.device_task() for task in model.tasks]
    asked = [task.device_task() for task in arrays.tasks]
    missing = [task.name for task in asked if task not in learnt]
    differing = ""
    if missing:
        differing = f"has not learnt {', '.join(missing)} as the dataset states it"
    elif learnt != asked:
        differing = f"learnt {', '.join(task.name for task in learnt)}, in another order or more than the dataset has"
    elif model.shape.behaviours != len(arrays.behaviours):
        differing = f"knows {model.shape.behaviours} behaviours, the dataset has {len(arrays.behaviours)}"
    elif model.max_history < recipe.model.max_history:
        differing = f"reads {model.max_history} events, model.max_history = {recipe.model.max_history} asks for more"
    elif not words <= (known := word_rows(model)) < words + MOST_UNUSED_WORDS:
        raise StageError(
            f"the teacher {path} knows {known:,} words, the encoder's vocabulary {words:,}; the next step: name the "
            "one it was trained from with --encoder (a run that made its own keeps it in its work folder)"
        )
    if differing:
        raise StageError(
            f"the teacher {path} {differing}; the next step: give a teacher of this dataset and recipe, or leave "
            "--teacher out"
        )


def teacher_batches(recipe: Recipe, arrays: Arrays, tokens: Tokens, collaboration: Collaboration) -> BatchSource:
    """Return what a teacher of the dataset's tasks learns from."""
    return BatchSource(
        arrays,
        tokens,
        collaboration,
        recipe.teacher.training,
        recipe.model.max_history,
        recipe.seed,
        with_company=recipe.teacher.alignment > 0,
        unread=unread_items(arrays, recipe),
    )


@dataclass(frozen=True)
class TrainedTeacher:
    """The best model of a training."""

    model: MultiTaskModel
    metrics: dict[str, float]  # on the VALIDATION fold
    pooled: (
        Tensor | None
    )  # (rows, hidden) what it makes of every text in FP32, where the last validation has just read it


def train_teacher(
    recipe: Recipe,
    source: BatchSource,
    encoder: str,
    *,
    folder: Path,
    validate: Validate,
    device: Device,
    label: str = "teacher",
    progress: bool,
) -> TrainedTeacher:
    """Fine-tune the tasks of `source` together and return the best model."""
    check_detached(recipe, source.arrays)
    model = new_teacher(recipe, source.arrays, encoder)
    learner = labels_learner(recipe, model, source)
    metrics = fit(
        learner,
        source,
        source.settings,
        folder=folder,
        validate=validate,
        device=device,
        label=label,
        progress=progress,
    )
    return TrainedTeacher(model, metrics, learner.cache)


def labels_learner(recipe: Recipe, model: MultiTaskModel, source: BatchSource) -> Learner:
    """Return what teaches a model by labels alone, its outputs centred on what the labels are like."""
    weights = {**task_weights(recipe, source.arrays), ALIGNMENT: recipe.teacher.alignment}
    weighting = TaskWeighting(weights, source.settings.weighting)
    learner = Learner(model, weighting, source.arrays, source.tokens, recipe.teacher.detached)
    centre_outputs(learner)
    return learner
