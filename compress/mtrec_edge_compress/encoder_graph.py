"""Run an encoder graph, and the text heads that stand beside it, on texts of one length.

Knows nothing of how the graphs were made.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mtrec_edge_compress.data.arrays import FloatArray, IntArray
from mtrec_edge_runtime.manifest import TEXT_HEADS
from mtrec_edge_runtime.session import Graph


def unpadded(graph: Graph, ids: IntArray) -> dict[str, IntArray]:
    """Return what an encoder graph takes for texts of one length: ids (texts, tokens), a mask of ones if it has one."""
    return {"input_ids": ids} | ({"attention_mask": np.ones_like(ids)} if "attention_mask" in graph.inputs else {})


def text_heads_in(folder: Path) -> list[Path]:
    """Return the graph of text heads in a folder of graphs; empty for a model without text tasks."""
    return [folder / TEXT_HEADS] if (folder / TEXT_HEADS).is_file() else []


def open_text_heads(folder: Path) -> Graph | None:
    """Open the text heads in a folder of graphs, None where there are none."""
    return next((Graph(path) for path in text_heads_in(folder)), None)


def text_logits(heads: Graph | None, found: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Return every text task's logits of what an encoder graph gave; nothing where there are no text heads."""
    if heads is None:
        return {}
    feeds = {name: found[name] for name in heads.inputs}
    return dict(zip(heads.outputs, heads.run(feeds, heads.outputs), strict=True))
