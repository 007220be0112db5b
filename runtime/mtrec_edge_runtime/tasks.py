"""What the device knows of a task: its kind, its labels, its range.

The toolkit turns its own task settings into these, the manifest stores them, the recommender reads them.
"""

import math
from collections.abc import Container
from dataclasses import dataclass
from enum import StrEnum

from mtrec_edge_runtime.errors import InputError

ORDER = ".order"  # behind a task's name: a second score of the ranker, by which a catalogue is ordered


def order_name(task: str, outputs: Container[str]) -> str:
    """Return which of the `outputs` orders a catalogue for a task: the order apart where there is one, or the task."""
    return task + ORDER if task + ORDER in outputs else task


class Kind(StrEnum):
    """The four kinds of task. The value is the word used in `dataset.toml` and in the manifest."""

    REGRESSION = "regression"
    BINARY = "binary"
    MULTICLASS = "multiclass"
    TOKEN = "token"


@dataclass(frozen=True)
class Task:
    """One task of a model, named `domain.signal`.

    A `regression` or `binary` task scores a (user, item) pair: `ranker.onnx` can be asked for it. A `multiclass` or
    `token` task reads one text and is an output of `text_heads.onnx`, by the task's name. A binary task that `ranks`
    may have a second score, `domain.signal.order`: how likely the user meets the item and likes it, where the task's
    own score says how likely they like it once met.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...] = ()  # multiclass and token: label of each output column
    low: float | None = None  # regression: least value a score may take
    high: float | None = None  # regression: greatest value
    ranks: bool = False  # binary: trained to order the whole catalogue of its domain
    temperature: float = 1.0  # binary: probability = sigmoid(logit / temperature)

    def __post_init__(self) -> None:
        """Refuse a task that could not be served."""
        if self.name.count(".") != 1 or not all(part.isidentifier() for part in self.name.split(".")):
            raise InputError(f"task name {self.name!r}: write it as domain.signal, both plain identifiers")
        if self.name.endswith(ORDER):
            raise InputError(f"task name {self.name!r}: {ORDER} is kept for a task's second score; name it otherwise")
        if self.kind in (Kind.MULTICLASS, Kind.TOKEN) and len(self.labels) < 2:
            raise InputError(f"task {self.name}: a {self.kind} task needs at least two labels, got {len(self.labels)}")
        if len(set(self.labels)) < len(self.labels):
            raise InputError(f"task {self.name}: a label stands twice among {', '.join(self.labels)}")
        if not 0 < self.temperature < math.inf:
            raise InputError(f"task {self.name}: temperature {self.temperature} must be a number above 0")

    @property
    def domain(self) -> str:
        """The part of the name before the dot."""
        return self.name.split(".")[0]

    @property
    def pairwise(self) -> bool:
        """Whether the task scores a (user, item) pair rather than one text."""
        return self.kind in (Kind.REGRESSION, Kind.BINARY)

    @property
    def reads(self) -> str:
        """Which output of `encoder.onnx` the head of a text task takes: a text's vector, or its tokens' states."""
        return "states" if self.kind is Kind.TOKEN else "vector"
