"""What a model must beat: popularity, TF-IDF, item-kNN, EASE, user and item bias, the usual tag of a word.

Fitted on TRAIN events and labels alone, each tuned on the VALIDATION fold with the same number of trials. A baseline is
a `Scorer`; `Baseline.tasks` names what it can serve. Knows nothing of neural models or bundles.
"""

from mtrec_edge_compress.baselines.baseline import Baseline
from mtrec_edge_compress.baselines.fit import TRIALS, fit_baselines

__all__ = ["TRIALS", "Baseline", "fit_baselines"]
