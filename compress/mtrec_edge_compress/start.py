"""How a student starts: from the teacher's own layers, or from what the teacher makes of each token.

* `layers`: chosen layers copied, the word table cut to the vocabulary and factorised.
* `outputs`: a word's row is the teacher's output for that token alone, cut to the width by principal components; new
  layers add nothing at first. So the untrained student is the mean of static token vectors, which is near the teacher
  on texts it never saw, and each layer has to show its gain. Without a layer it stays static. Source: Tulkens & van
  Dongen, Model2Vec, 2024.

Knows nothing of training.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from mtrec_edge_compress.compact import (
    CompactBert,
    CompactShape,
    Layer,
    check_layers,
    compact_from_bert,
    narrow_words,
)
from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_compress.recipe import Recipe, Student
from mtrec_edge_compress.teacher import load_backbone
from mtrec_edge_compress.tokens import vocabulary_of
from mtrec_edge_runtime.errors import RecipeError
from mtrec_edge_runtime.tasks import Kind

HEAD_SIZE = 32
NEW_HEADS, NEW_UNITS = 3, 192  # of a new layer, unless the recipe says
RUN_TOKENS = 512  # tokens asked about at once
RIDGE = 1e-3  # of the mean square of the pooled states, in the closed-form start of the projection


def check_start(recipe: Recipe, encoder: str, loaded: PreTrainedModel | None = None) -> None:
    """Refuse, before a teacher is trained, an encoder from which no student of this recipe can start.

    `loaded` is that encoder, where it is at hand.

    Raises:
        StageError: it cannot be loaded, has no uncased WordPiece vocabulary, or no BERT layers where these are copied.
        RecipeError: the student would be deeper or wider than its teacher, or wider than its vocabulary.
    """
    settings, words = recipe.student, len(vocabulary_of(encoder))
    bert = load_backbone(encoder) if loaded is None else loaded
    if settings.start == "layers":
        check_layers(bert)
        _check_copied(settings, bert)
    else:
        _check_width(settings.hidden_size, bert.config.hidden_size, min(words, settings.vocabulary))


def _check_copied(settings: Student, bert: PreTrainedModel) -> None:
    """Refuse more layers, heads or units than there are to copy."""
    config = bert.config
    there = {
        "layers": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "units": config.intermediate_size,
    }
    for name, most in there.items():
        if getattr(settings, name) > most:
            raise RecipeError(
                f"student.{name} = {getattr(settings, name)}: a student starts from the layers of an encoder that has "
                f"{most} {name}; write at most that"
            )


def _check_width(hidden: int, wide: int, words: int) -> None:
    if hidden > min(wide, words):
        raise RecipeError(
            f"student.hidden_size = {hidden}: from outputs a student is at most as wide as its teacher ({wide}) and as "
            f"its vocabulary ({words}); the next step: a smaller number, or more words"
        )


def new_student(
    recipe: Recipe, teacher: MultiTaskModel, token_ids: Sequence[int], *, ends: tuple[int, int]
) -> MultiTaskModel:
    """Start a student as the recipe says; its user encoder and ranking heads are the teacher's.

    Args:
        recipe: its `student` and `model` tables count.
        teacher: the trained teacher.
        token_ids: for each token of the trimmed vocabulary its id in the vocabulary of the encoder it starts from.
        ends: in that vocabulary, the ids of the tokens before and after every text, [CLS] and [SEP].
    """
    with torch.random.fork_rng(devices=[]):  # what is new in it depends on the seed alone
        torch.manual_seed(recipe.seed)
        return _started(recipe, teacher, token_ids, ends)


def _started(
    recipe: Recipe, teacher: MultiTaskModel, token_ids: Sequence[int], ends: tuple[int, int]
) -> MultiTaskModel:
    bert: PreTrainedModel = teacher.text.backbone
    if recipe.student.encoder:
        bert = load_backbone(recipe.student.encoder)
    if recipe.student.start == "layers":
        backbone, basis = _from_layers(recipe, bert, token_ids), torch.eye(bert.config.hidden_size)
    else:
        backbone, basis = _from_outputs(recipe, bert, token_ids, ends)
    shape = replace(teacher.shape, dropout=recipe.student.dropout, token_window=recipe.student.token_window)
    student = MultiTaskModel(backbone, backbone.shape.hidden_size, shape, teacher.tasks)
    copied = {k: v for k, v in teacher.state_dict().items() if not k.startswith("text.backbone.")}
    if bert.config.hidden_size == teacher.hidden_size:
        copied = _on_student_states(copied, teacher, basis, shape.token_window)
    sized = student.state_dict()
    student.load_state_dict({k: v for k, v in copied.items() if v.shape == sized[k].shape}, strict=False)
    return student


def _on_student_states(
    weights: dict[str, Tensor], teacher: MultiTaskModel, basis: Tensor, window: int
) -> dict[str, Tensor]:
    """Return weights whose layers on the states read `basis` (hidden, width) coordinates of them.

    A token head reads a window of them, and at first of the neighbours nothing that the teacher's did not.
    """
    read = dict(weights)
    read["text.projection.weight"] = weights["text.projection.weight"] @ basis
    for number, task in enumerate(teacher.text_tasks):
        if task.kind is Kind.TOKEN:
            name = f"text_heads.{number}.weight"
            parts = torch.unflatten(weights[name], 1, (teacher.shape.token_window, -1))  # (labels, window, hidden)
            more = (window - teacher.shape.token_window) // 2
            read[name] = F.pad(parts @ basis, (0, 0, more, more)).flatten(1)
    return read


def _from_layers(recipe: Recipe, bert: PreTrainedModel, token_ids: Sequence[int]) -> CompactBert:
    _check_copied(recipe.student, bert)
    depth, hidden, size = bert.config.num_hidden_layers, bert.config.hidden_size, recipe.student.embedding_size
    kept = recipe.student.layers
    layers = [round(i) for i in np.linspace(0, depth - 1, kept)] if kept > 1 else [depth - 1]
    return compact_from_bert(
        bert,
        layers,
        token_ids=token_ids,
        embedding_size=size if 0 < size < hidden else hidden,
        positions=recipe.model.max_tokens,
        dropout=recipe.student.dropout,
    )


def _from_outputs(
    recipe: Recipe, bert: PreTrainedModel, token_ids: Sequence[int], ends: tuple[int, int]
) -> tuple[CompactBert, Tensor]:
    """Return the backbone, and the basis (teacher's hidden, hidden) its states are coordinates in."""
    settings, wide = recipe.student, bert.config.hidden_size
    hidden = settings.hidden_size or wide
    _check_width(hidden, wide, len(token_ids))
    shape = CompactShape(
        len(token_ids),
        hidden,
        hidden,
        HEAD_SIZE,
        recipe.model.max_tokens,
        ((settings.heads or NEW_HEADS, settings.units or NEW_UNITS),) * settings.layers,
        dropout=settings.dropout,
    )
    backbone = CompactBert(shape)
    outputs = token_outputs(bert, token_ids, ends)
    _, _, directions = torch.linalg.svd(outputs, full_matrices=False)
    basis = directions[:hidden].T if hidden < wide else torch.eye(wide)
    rows = outputs @ basis
    embeddings = backbone.embeddings
    with torch.no_grad():
        embeddings.word.weight.copy_(rows)
        scale = float(rows.std(dim=1).mean())
        norms = [embeddings.norm]
        for layer in backbone.layers:
            assert isinstance(layer, Layer)
            for silent in (layer.attention_out, layer.down):  # a new layer adds nothing yet
                silent.weight.zero_()
                silent.bias.zero_()
            norms += [layer.attention_norm, layer.output_norm]
        for norm in norms:  # states keep the size of the rows
            norm.weight.fill_(scale)
    narrow_words(backbone, settings.embedding_size or hidden)
    return backbone, basis


@torch.no_grad()
def token_outputs(bert: PreTrainedModel, token_ids: Sequence[int], ends: tuple[int, int]) -> Tensor:
    """Return the mean state (tokens, hidden) an encoder gives for each token between [CLS] and [SEP]."""
    begin, end = ends
    wanted, outputs = torch.as_tensor(list(token_ids)), []
    bert.eval()
    for part in torch.split(wanted, RUN_TOKENS):
        ids = torch.stack([torch.full_like(part, begin), part, torch.full_like(part, end)], dim=1).to(bert.device)
        outputs.append(bert(input_ids=ids, attention_mask=torch.ones_like(ids))[0].mean(1).cpu())
    return torch.cat(outputs)


def fit_projection(student: MultiTaskModel, pooled: Tensor, vectors: Tensor) -> None:
    """Set the projection to the ridge regression of the teacher's vectors (texts, D) on pooled states (texts, hidden).

    The best linear start there is, in closed form: training goes on from it.
    """
    mean, target = pooled.mean(0), vectors.mean(0)
    centred = (pooled - mean).double()
    square = centred.T @ centred
    ridge = RIDGE * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype)
    weight = torch.linalg.solve(square + ridge, centred.T @ (vectors - target).double()).float()
    with torch.no_grad():
        student.text.projection.weight.copy_(weight.T)
        student.text.projection.bias.copy_(target - mean @ weight)
