"""What a student can learn of the teacher's inside: how its last layer relates tokens, and the states it ends with.

Relations of queries, keys and values: Wang et al., MiniLMv2, 2021. For each kind, R = softmax(A A' / sqrt(d)) over the
tokens of a text, in heads of a common number whatever the widths; the loss is KL(R teacher || R student). Both read the
same text; a text that the trimmed vocabulary cuts into other pieces has no common positions and is left out.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtrec_edge_compress.batches import TextBucket
from mtrec_edge_compress.compact import CompactBert, Layer
from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_compress.tokens import Tokens
from mtrec_edge_runtime.errors import RecipeError

KINDS = ("query", "key", "value")


class Representation(nn.Module):
    """The losses of phase one that look inside. Holds the map from the student's states to the teacher's."""

    def __init__(
        self,
        student: CompactBert,
        teacher: MultiTaskModel,
        teacher_tokens: Tokens,
        student_tokens: Tokens,
        max_tokens: int,
    ) -> None:
        super().__init__()
        layers = getattr(getattr(teacher.text.backbone, "encoder", None), "layer", None)
        attention = getattr(getattr(layers[-1], "attention", None), "self", None) if layers else None
        if not student.layers or attention is None:
            raise RecipeError(
                "distill.relation_weight and distill.hidden_weight need layers to compare, of a student and of a "
                "BERT-family teacher; set both to 0"
            )
        self._teacher = (teacher,)  # in a tuple, so that it is no submodule
        self.tokens = teacher_tokens
        self.register_buffer("aligned", aligned_rows(teacher_tokens, student_tokens, max_tokens), persistent=False)
        self.aligned: Tensor  # (rows,)
        last = student.layers[-1]
        assert isinstance(last, Layer)
        self.heads = math.gcd(last.heads, attention.num_attention_heads)
        self.expand = nn.Linear(student.shape.hidden_size, teacher.hidden_size, bias=False)
        nn.init.eye_(self.expand.weight)
        self.seen: dict[str, Tensor] = {}
        self.hooks: list[Any] = []
        for kind in KINDS:
            self._watch(getattr(last, kind), f"student {kind}")
            self._watch(getattr(attention, kind), f"teacher {kind}")

    def _watch(self, module: nn.Module, name: str) -> None:
        hook = module.register_forward_hook(lambda _module, _inputs, output: self.seen.__setitem__(name, output))
        self.hooks.append(hook)

    def close(self) -> None:
        """Look no longer: both models are as they were."""
        for hook in self.hooks:
            hook.remove()
        self.seen.clear()

    def forward(self, bucket: TextBucket, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return the relation loss and the hidden-state loss of one bucket, means over its comparable texts.

        `states` (texts, tokens, width) are the student's, just computed.
        """
        same = self.aligned[bucket.rows]
        if not same.any():
            return states.new_zeros(()), states.new_zeros(())
        mask = bucket.attention_mask[same]
        teacher = self._teacher[0]
        ids, _ = self.tokens.padded(bucket.rows[same].cpu().numpy())
        ids = ids.to(states.device)
        length = ids.shape[1]
        with torch.no_grad():
            theirs = teacher.text.backbone(input_ids=ids, attention_mask=mask[:, :length])[0]
        with torch.autocast(states.device.type, enabled=False):
            relation = sum(
                (
                    relation_loss(
                        self.seen[f"student {kind}"][same][:, :length].float(),
                        self.seen[f"teacher {kind}"].float(),
                        mask[:, :length],
                        self.heads,
                    )
                    for kind in KINDS
                ),
                states.new_zeros(()),
            )
            known = mask[:, :length].unsqueeze(-1).to(theirs.dtype)
            error = (self.expand(states[same][:, :length].float()) - theirs.float()) * known
            hidden = error.square().sum() / (theirs.float() * known).square().sum()
        return relation / len(KINDS), hidden


def relation_loss(student: Tensor, teacher: Tensor, mask: Tensor, heads: int) -> Tensor:
    """Return KL(teacher's relation || student's), mean over heads and tokens of each text, then over texts.

    `student` (texts, tokens, width) and `teacher` (texts, tokens, other width), widths a multiple of `heads`; `mask`
    (texts, tokens).
    """
    bias = (mask[:, None, None, :].to(student.dtype) - 1.0) * 1e4
    ours, theirs = (_log_relation(part, heads) + bias for part in (student, teacher))
    ours, theirs = F.log_softmax(ours, dim=-1), F.log_softmax(theirs, dim=-1)
    each = (theirs.exp() * (theirs - ours)).sum(-1)  # (texts, heads, tokens)
    known = mask[:, None, :].to(each.dtype)
    return ((each * known).sum((1, 2)) / (known.sum((1, 2)) * heads)).mean()


def _log_relation(part: Tensor, heads: int) -> Tensor:
    split = torch.unflatten(part, -1, (heads, -1)).transpose(1, 2)  # (texts, heads, tokens, d)
    return torch.matmul(split, split.transpose(2, 3)) / math.sqrt(split.shape[-1])


def aligned_rows(teacher: Tokens, student: Tokens, max_tokens: int) -> Tensor:
    """Return whether each row has as many tokens in both vocabularies, (rows,); a text that was cut may be no match."""
    pairs = zip(teacher.ids, student.ids, strict=True)
    return torch.tensor([len(a) == len(b) < max_tokens for a, b in pairs], dtype=torch.bool)
