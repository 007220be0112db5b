"""What the teacher says of every text, laid out for training: vectors, class and word logits; itself for pairs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mtrec_edge_compress.cross_pairs import CrossPairs
from mtrec_edge_compress.data.arrays import Arrays
from mtrec_edge_compress.data.schema import TaskSpec
from mtrec_edge_compress.encoding import Encoded
from mtrec_edge_compress.extra_texts import ExtraText
from mtrec_edge_compress.fusion import FusedPairs
from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_compress.tokens import Tokens
from mtrec_edge_runtime.tasks import Kind


@dataclass(frozen=True)
class SoftTargets:
    """What the teacher says of every corpus row, and the teacher itself for pairs."""

    teacher: MultiTaskModel
    tokens: Tokens  # every text under the teacher's vocabulary
    vectors: Tensor  # (rows, D)
    classes: dict[str, Tensor]  # multiclass task -> (rows, labels)
    words: dict[str, Tensor]  # token task -> (all words, labels)
    word_start: Tensor  # (rows + 1,) where each row's words begin in `words`
    asked: dict[str, Tensor]  # text task -> (rows,) whether a text of its source and domain stands there
    fused: FusedPairs | None = None  # several teachers for pairs, in place of the one
    cross: CrossPairs | None = None  # what a cross-encoder said of a sample of pairs


def soft_targets(
    teacher: MultiTaskModel,
    tokens: Tokens,
    encoded: Encoded,
    arrays: Arrays,
    device: torch.device,
    *,
    extra: Sequence[ExtraText] = (),
    fused: FusedPairs | None = None,
    cross: CrossPairs | None = None,
) -> SoftTargets:
    """Lay out what the teacher computed for every text of the corpus, then for every extra one."""
    rows = len(encoded.vectors)
    splits = [()] * len(arrays.item_ids) + list(arrays.text_tokens) + [text.words for text in extra]
    start = np.concatenate([[0], np.cumsum([len(split) for split in splits])])
    words = {}
    for task in teacher.text_tasks:
        if task.kind is Kind.TOKEN:
            table = np.zeros((start[-1], len(task.labels)), np.float32)
            for row, logits in encoded.word_logits[task.name].items():
                table[start[row] : start[row] + len(logits)] = logits
            words[task.name] = torch.from_numpy(table).to(device)
    assert rows == len(splits)
    return SoftTargets(
        teacher.to(device).eval(),
        tokens,
        torch.from_numpy(encoded.vectors).to(device),
        {name: torch.from_numpy(logits).to(device) for name, logits in encoded.logits.items()},
        words,
        torch.from_numpy(start).to(device),
        {task.name: torch.from_numpy(_asked(task, arrays, extra)).to(device) for task in teacher.text_tasks},
        fused,
        cross,
    )


def _asked(task: TaskSpec, arrays: Arrays, extra: Sequence[ExtraText]) -> npt.NDArray[np.bool_]:
    """Return whether each row's text is one that the text task is asked about, (rows,)."""
    items = np.zeros(len(arrays.item_ids), bool)
    texts = np.zeros(len(arrays.texts), bool)
    if task.source == "items":
        items[arrays.domains[task.domain]] = True
    else:
        texts[:] = (arrays.dataset.texts["domain"] == task.domain).to_numpy()
    more = np.array([(text.table, text.domain) == (task.source, task.domain) for text in extra], bool)
    return np.concatenate([items, texts, more])
