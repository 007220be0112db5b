"""Run exported graphs in the toolkit: texts of one length a batch, never padded. The numbers a device would see.

Reads a folder of graphs; knows nothing of bundles, users or metrics.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mtrec_edge_compress.cores import on_every_core
from mtrec_edge_compress.data.arrays import FloatArray, IntArray
from mtrec_edge_compress.encoder_graph import open_text_heads, text_logits, unpadded
from mtrec_edge_compress.export import ENCODER_FP32, RANKER
from mtrec_edge_compress.quantize import ENCODER_EXACT, ENCODER_FAST
from mtrec_edge_runtime.encoder import run_batches
from mtrec_edge_runtime.session import Graph

Variant = Literal["fp32", "fast", "exact"]
ENCODERS: dict[Variant, str] = {"fp32": ENCODER_FP32, "fast": ENCODER_FAST, "exact": ENCODER_EXACT}


@dataclass(frozen=True)
class TextOutputs:
    """What encoder and text heads give for some texts, in their order, a row a token for token tasks."""

    vectors: FloatArray  # (texts, D)
    logits: dict[str, FloatArray]  # multiclass task -> (texts, labels)
    token_logits: dict[str, list[FloatArray]]  # token task -> (tokens, labels) of each text


class Graphs:
    """The encoder of one variant, text heads and ranker of a folder, opened."""

    def __init__(self, folder: Path, variant: Variant, outputs: Sequence[str] = ()) -> None:
        """Open `folder`'s graphs, one thread a run; BundleError when one is missing.

        `outputs` names what the ranker can be asked for; without them the encoder alone is of use.
        """
        self._encoder = Graph(folder / ENCODERS[variant], weight_only=variant == "exact")
        self._heads = open_text_heads(folder)
        self._ranker = Graph(folder / RANKER)
        self.outputs = tuple(outputs)

    def encode(self, ids: Sequence[IntArray]) -> TextOutputs:
        """Return every output for texts given as token ids, at least one; equal lengths share a run."""
        rows: dict[str, list[Any]] = {}
        batches = list(run_batches([len(text) for text in ids], padded=False))
        for batch, found in zip(batches, on_every_core(partial(self._encode, ids), batches), strict=True):
            for name, values in found.items():
                found_rows = rows.setdefault(name, [None] * len(ids))
                for row, value in zip(batch, values, strict=True):
                    found_rows[row] = value
        tags = {name: values for name, values in rows.items() if values[0].ndim == 2}
        logits = {name: np.stack(values) for name, values in rows.items() if name not in tags}
        return TextOutputs(logits.pop("vector"), logits, tags)

    def _encode(self, ids: Sequence[IntArray], rows: Sequence[int]) -> dict[str, FloatArray]:
        return self.run_text(np.stack([ids[row] for row in rows]))

    def run_text(self, input_ids: IntArray, attention_mask: IntArray | None = None) -> dict[str, FloatArray]:
        """Return `vector` and every text task's logits for one batch, as `MultiTaskModel.encode` does."""
        found = self.run_encoder(input_ids, attention_mask)
        return {"vector": found["vector"], **text_logits(self._heads, found)}

    def run_encoder(self, input_ids: IntArray, attention_mask: IntArray | None = None) -> dict[str, FloatArray]:
        """Return the encoder's outputs for one batch, (batch, tokens) each; without a mask nothing is padding."""
        feeds = unpadded(self._encoder, input_ids)
        if attention_mask is not None:
            feeds |= {"attention_mask": attention_mask}
        return dict(zip(self._encoder.outputs, self._encoder.run(feeds, self._encoder.outputs), strict=True))

    def rank(self, inputs: Mapping[str, Any], domain: str | None = None) -> dict[str, FloatArray]:
        """Return the scores (batch, items) of a domain's outputs, or of all of them.

        The ranker's inputs are those of docs/bundle-format.md but `asked`.
        """
        wanted = [name for name in self.outputs if domain in (None, name.split(".")[0])]
        asked = np.array([self.outputs.index(name) for name in wanted], np.int64)
        (scores,) = self._ranker.run({**inputs, "asked": asked}, ["scores"])
        return {name: scores[..., place] for place, name in enumerate(wanted)}
