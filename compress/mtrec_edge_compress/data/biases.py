"""How much more than usual each user gives, and each item gets. Knows nothing of folds, tasks or models."""

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
Values = npt.NDArray[np.floating]

USER_SHRINKAGE = 3.0  # pseudo-events, at no bias, behind what a user is taken to give

_SWEEPS = 5  # alternations; biases move by < 1e-3 after three


def alternating_biases(
    user: IntArray, item: IntArray, value: Values, *, users: int, items: int, user_shrink: float, item_shrink: float
) -> tuple[Values, Values]:
    """Return the users' biases (users,) and the items' (items,) of centred values (events,), by alternating means.

    Each is `sum(value - the other's bias) / (n + shrink)`. Koren 2010, "Factor in the neighbors", section 2.1.
    """
    user_bias: Values = np.zeros(users)
    item_bias: Values = np.zeros(items)
    for _ in range(_SWEEPS):
        item_bias = shrunk_means(item, value - user_bias[user], items, item_shrink)
        user_bias = shrunk_means(user, value - item_bias[item], users, user_shrink)
    return user_bias, item_bias


def shrunk_means(group: IntArray, values: Values, groups: int, shrink: float) -> Values:
    """Return sum(value) / (n + shrink) of each group, (groups,)."""
    means: Values = np.bincount(group, values, groups) / (np.bincount(group, minlength=groups) + shrink)
    return means
