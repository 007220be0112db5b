"""BERT-base in FP32 beside the student, in the same ONNX Runtime: what ratios of size and latency refer to.

Its weights are random: neither size nor latency depends on them. Building it takes some seconds, 3 GB of memory and
435 MB of disk, so it is made once a work folder, and only where a budget or tiers ask for it.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, PretrainedConfig

from mtrec_edge_compress.encoder_graph import unpadded
from mtrec_edge_compress.export import GraphShape, export_graph
from mtrec_edge_compress.graphs import Graphs
from mtrec_edge_compress.latency import ANY_TOKEN, TOKENS
from mtrec_edge_runtime.session import Graph
from mtrec_edge_runtime.timing import Sampling, median_ratio, sample_ms

FILE = "bert-base.onnx"  # in the work folder; one that is there is taken as it is
# BERT-base reads 340 MB of weights a text: without a call of its own before, a small graph is timed loading its own
SAMPLING = Sampling(samples=100, seconds=10.0, warmup_runs=5, own_caches=True)


@dataclass(frozen=True)
class Comparison:
    """An INT8 encoder (profile fast) beside BERT-base."""

    reference_bytes: int
    ratio: float  # median(BERT-base) / median(encoder) of paired samples, one text
    low: float  # 95 % interval over resampled pairs
    high: float
    tokens: int  # of the text

    def write(self, path: Path) -> None:
        """Keep it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1))


def read_comparison(path: Path) -> Comparison | None:
    """Return what was kept at `path`, None when nothing was compared."""
    return Comparison(**json.loads(path.read_text())) if path.is_file() else None


class _States(nn.Module):
    """A BERT as the exporter wants it: inputs by name, one named output."""

    def __init__(self, bert: BertModel) -> None:
        super().__init__()
        self.bert, self.config = bert, PretrainedConfig()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """Return the token states, (batch, tokens, hidden)."""
        return {"states": self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state}


def make_bert(path: Path, config: BertConfig | None = None) -> None:
    """Write a random BERT as FP32 ONNX unless `path` is there; by default base: 12 layers of 768, 30,522 tokens."""
    if path.is_file():
        return
    config = config or BertConfig()
    axes: tuple[str | int, ...] = ("batch", "tokens")
    inputs = {"input_ids": axes, "attention_mask": axes}
    shape = GraphShape(inputs, tuple(inputs), {"states": (*axes, int(config.hidden_size))})
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        export_graph(_States(BertModel(config, add_pooling_layer=False)), shape, part)
    part.replace(path)


def compare(reference: Path, int8: Path, *, max_tokens: int) -> Comparison:
    """Time one text of 32 tokens (or `max_tokens`, when that is less) through both, interleaved in one window.

    Args:
        reference: what `make_bert` wrote.
        int8: folder that `quantize` wrote.
        max_tokens: the longest text the student serves.
    """
    tokens = min(TOKENS, max_tokens)
    ids = np.full((1, tokens), ANY_TOKEN, np.int64)
    bert, student = Graph(reference), Graphs(int8, "fast")
    feeds = unpadded(bert, ids)
    calls: dict[str, Callable[[], object]] = {
        "bert": lambda: bert.run(feeds, bert.outputs),
        "student": lambda: student.run_encoder(ids),
    }
    samples = sample_ms(calls, SAMPLING)
    ratio = median_ratio(samples["bert"], samples["student"])
    return Comparison(reference.stat().st_size, ratio["value"], ratio["low"], ratio["high"], tokens)
