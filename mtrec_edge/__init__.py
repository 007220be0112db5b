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
        InputError,
        MtrecError,
        RecipeError,
        StageError,
    )
    from mtrec_edge_runtime.recommender import Event, NewItem, Ranked, Recommender, Tagged

__all__ = [
    "BundleError",
    "DataError",
    "Event",
    "InputError",
    "MtrecError",
    "NewItem",
    "Ranked",
    "RecipeError",
    "Recommender",
    "StageError",
    "Tagged",
    "__version__",
]
