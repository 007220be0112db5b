"""One ONNX Runtime session a graph, with the options a device needs and telemetry off.

Reads a graph file (and its external weights beside it). Knows nothing of texts, items or tasks. ONNX Runtime is
imported when the first graph is opened; `ORT_DISABLE_TELEMETRY=1` is set before, unless the variable is set already,
for since 1.29 ONNX Runtime reports home by default.
"""

import os
import threading
from collections.abc import Collection, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrec_edge_runtime.errors import BundleError, InputError

MAX_THREADS = 1024
_OPENING = threading.Lock()  # sessions must not be created concurrently; running one is thread-safe


class Graph:
    """An open graph: CPU provider alone, no spinning threads, memory that grows with past shapes only when told."""

    def __init__(
        self,
        path: str | Path,
        *,
        threads: int = 1,
        weight_only: bool = False,
        few_shapes: bool = False,
        lowest: str = "1.20",
    ) -> None:
        """Open the graph at `path`.

        `threads` work on one run. `weight_only` keeps DequantizeLinear as it stands (profile `exact`), so that the
        arithmetic is FP32 and the same on every machine. `few_shapes` keeps, for each shape of inputs, where tensors
        lay: 2 % faster, about 1 KB a shape. Raises BundleError when ONNX Runtime is older than `lowest` or cannot read
        the graph, InputError for a number of threads below 1 or above 1,024.
        """
        if whole_number("threads", threads) > MAX_THREADS:
            raise InputError(f"threads={threads}: at most {MAX_THREADS}; one serves an app best")
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime as ort

        if _version(ort.__version__) < _version(lowest):
            raise BundleError(f"{path} needs onnxruntime {lowest}, found {ort.__version__}: pip install -U onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(threads)
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.enable_mem_pattern = few_shapes
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.disable_quant_qdq", "1" if weight_only else "0")
        self.path = Path(path)
        try:
            with _OPENING:
                self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors share no base class but Exception
            raise BundleError(f"{path}: ONNX Runtime {ort.__version__} cannot open it: {error}") from error
        self.inputs = tuple(node.name for node in self._session.get_inputs())
        self.outputs = tuple(node.name for node in self._session.get_outputs())
        self.widths = {node.name: node.shape[-1] for node in self._session.get_outputs() if node.shape}
        self._options = ort.RunOptions()
        self._options.log_severity_level = 4

    def require(self, inputs: Collection[str], outputs: Sequence[str]) -> None:
        """Refuse a graph that does not take `inputs` or does not give `outputs`."""
        missing = [name for name in outputs if name not in self.outputs]
        if set(inputs) != set(self.inputs) or missing:
            raise BundleError(
                f"{self.path}: takes {list(self.inputs)} and gives {list(self.outputs)}, the manifest asks for "
                f"{list(inputs)} and {list(outputs)}; the bundle's parts do not belong together"
            )

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Return the named outputs. Every node of the graph is run, whatever is named."""
        try:
            results: list[NDArray[Any]] = self._session.run(list(outputs), dict(feeds), self._options)
        except Exception as error:
            raise BundleError(f"{self.path}: ONNX Runtime cannot run it: {error}") from error
        return results


def whole_number(name: str, value: int) -> int:
    """Return `value`; InputError when it is no whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise InputError(f"{name}={value!r}: give a whole number of at least 1")
    return int(value)


def check_finite(values: NDArray[Any], path: Path) -> NDArray[Any]:
    """Return what a graph gave; BundleError when a number of it is not finite."""
    if not np.isfinite(values).all():
        raise BundleError(f"{path} gave a number that is not finite: a file of the open bundle was overwritten")
    return values


def _version(text: str) -> tuple[int, ...]:
    """Return `(major, minor)` of a version such as `1.20.1` or `1.21.0rc1`."""
    try:
        return tuple(int(part) for part in text.split(".")[:2])
    except ValueError as error:
        raise BundleError(f"onnxruntime version {text!r} is not of the form 1.20") from error
