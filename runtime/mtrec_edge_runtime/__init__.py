"""The device runtime of mtrec-edge: score, rank, explain, classify and tag with a bundle, on numpy and ONNX Runtime.

Importing it costs numpy; ONNX Runtime is imported when a bundle is opened.
"""

from mtrec_edge_runtime._version import __version__
from mtrec_edge_runtime.errors import BundleError, DataError, InputError, MtrecError, RecipeError, StageError
from mtrec_edge_runtime.explanation import Explanation, Reason
from mtrec_edge_runtime.golden import check_golden
from mtrec_edge_runtime.history import Candidate, Event, HistoryEntry, NewItem
from mtrec_edge_runtime.manifest import Manifest, read_manifest
from mtrec_edge_runtime.recommender import Ranked, Recommender, Tagged
from mtrec_edge_runtime.tasks import Kind, Task

__all__ = [
    "BundleError",
    "Candidate",
    "DataError",
    "Event",
    "Explanation",
    "HistoryEntry",
    "InputError",
    "Kind",
    "Manifest",
    "MtrecError",
    "NewItem",
    "Ranked",
    "Reason",
    "RecipeError",
    "Recommender",
    "StageError",
    "Tagged",
    "Task",
    "__version__",
    "check_golden",
    "read_manifest",
]
