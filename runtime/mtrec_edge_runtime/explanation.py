"""Why an item stands where it does: what its score loses without each event, links, or priors.

One run of the ranker answers as many variants of a request as there are parts to leave out (occlusion: Zeiler & Fergus,
Visualizing and understanding convolutional networks, 2014). Knows nothing of bundles or tasks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrec_edge_runtime.history import Event

Inputs = Mapping[str, NDArray[Any]]
WHOLE, WITHOUT_HISTORY, WITHOUT_LINKS, WITHOUT_PRIORS, PARTS = range(5)  # rows of the batch; from PARTS on one an event


@dataclass(frozen=True)
class Reason:
    """One event of the history and what it does for the item."""

    event: Event
    effect: float | None  # score less the score without it; None for the only event, where `history` is None
    cosine: float  # how alike the two texts are, -1 to 1
    link: float  # what users did together says, 0 where it says nothing


@dataclass(frozen=True)
class Explanation:
    """An item's score and what it owes to the parts; effects of parts that overlap do not add up to it."""

    score: float  # as `Recommender.order` gives it: a logit or an amount
    history: float | None  # effect of all events together; None where the bundle knows no user without a history
    links: float  # of what users did together
    priors: float  # of what all users did with the item: without it, it is an item nobody has met
    reasons: tuple[Reason, ...]  # strongest effect first, for or against; of the events the ranker looks at


def explain(
    inputs: Inputs, events: Sequence[Event], *, ask: Callable[[Inputs], NDArray[Any]], strangers: bool
) -> Explanation:
    """Ask the ranker for one user and one candidate, whole and without each part.

    `inputs` are the ranker's for one user (1, ...) and one item; `events` the user's, oldest first; `ask` returns a
    score for each row of a batch. `strangers` tells whether the ranker was trained on users without a history. Without
    an event the older ones are one event younger; none that is too old for the ranker moves in.
    """
    latest = list(reversed(events))[: inputs["history"].shape[1]]
    batch = {name: np.repeat(array, PARTS + len(latest), axis=0) for name, array in inputs.items()}
    batch["history_mask"][WITHOUT_HISTORY] = 0
    batch["affinity"][WITHOUT_LINKS] = 0
    batch["priors"][WITHOUT_PRIORS] = 0
    for place in range(len(latest)):
        batch["history_mask"][PARTS + place, place] = 0
        batch["age"][PARTS + place, place + 1 :] -= 1
    scores = np.asarray(ask(batch), np.float64)
    effects = [float(scores[WHOLE] - score) for score in scores]
    alone = len(latest) == 1 and not strangers
    vectors, links = inputs["history"][0], inputs["affinity"][0, 0]
    cosines = np.einsum("ed,d->e", vectors, inputs["candidates"][0, 0])
    reasons = [
        Reason(event, None if alone else effects[PARTS + place], float(cosines[place]), float(links[place]))
        for place, event in enumerate(latest)
    ]
    return Explanation(
        score=float(scores[WHOLE]),
        history=effects[WITHOUT_HISTORY] if strangers else None,
        links=effects[WITHOUT_LINKS],
        priors=effects[WITHOUT_PRIORS],
        reasons=tuple(sorted(reasons, key=lambda reason: -abs(reason.effect or 0.0))),
    )
