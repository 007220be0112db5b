"""The door: the names an application imports, loaded on first use so that `mtrec-edge --help` stays light.

>>> from mtrec_edge import Recommender                                        # doctest: +SKIP
>>> Recommender("bundle").rank(["movie-1"], task="movies.like", k=3)          # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtrec_edge_runtime._version import __version__
    from mtrec_edge_runtime.errors import (
        BundleError,
        DataError,
        DivergedError,
        InputError,
        MtrecError,
        RecipeError,
        StageError,
    )
    from mtrec_edge_runtime.explanation import Explanation, Reason
    from mtrec_edge_runtime.history import Event, NewItem
    from mtrec_edge_runtime.recommender import Ranked, Recommender, Tagged

__all__ = [
    "BundleError",
    "DataError",
    "DivergedError",
    "Event",
    "Explanation",
    "InputError",
    "MtrecError",
    "NewItem",
    "Ranked",
    "Reason",
    "RecipeError",
    "Recommender",
    "StageError",
    "Tagged",
    "__version__",
]

_HOME = {
    "__version__": "mtrec_edge_runtime._version",
    "Recommender": "mtrec_edge_runtime.recommender",
    "Event": "mtrec_edge_runtime.history",
    "NewItem": "mtrec_edge_runtime.history",
    "Explanation": "mtrec_edge_runtime.explanation",
    "Reason": "mtrec_edge_runtime.explanation",
    "Ranked": "mtrec_edge_runtime.recommender",
    "Tagged": "mtrec_edge_runtime.recommender",
}


def __getattr__(name: str) -> Any:
    """Import a public name from the module that defines it, once."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME.get(name, "mtrec_edge_runtime.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
