"""Windows over users' TRAIN events: which events a step scores, what came before them, what was never observed.

Reads Arrays, returns event and catalogue rows; knows nothing of texts, tokens or tensors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from mtrec_edge_compress.data.arrays import Arrays, FloatArray, IntArray, prior_features
from mtrec_edge_compress.data.balance import sample_negatives
from mtrec_edge_compress.data.schema import Fold


def tempered(counts: Sequence[int], temperature: float) -> list[int]:
    """Return counts with the same sum, in proportion to count^(1 / temperature); largest remainders are rounded up.

    Above 1 small domains are drawn more often, below 1 less. Source: Arivazhagan et al., Massively multilingual neural
    machine translation in the wild, 2019 (of languages).
    """
    known = np.asarray(counts, np.float64)
    if not known.any():
        return list(counts)
    share = np.where(known > 0, (known / known.max()) ** (1.0 / temperature), 0.0)
    exact = known.sum() * share / share.sum()
    whole = np.floor(exact + 1e-9).astype(np.int64)
    left = int(known.sum()) - int(whole.sum())
    whole[np.argsort(whole - exact, kind="stable")[:left]] += 1
    return [int(count) for count in whole]


@dataclass(frozen=True)
class Window:
    """Consecutive events of one user in one domain that serve as targets."""

    user: int
    domain: str
    rows: IntArray  # event rows


@dataclass(frozen=True)
class Windows:
    """Cuts a dataset's TRAIN events into windows, and says what surrounds each."""

    arrays: Arrays
    targets: int  # most events of a window

    def groups(self, rng: np.random.Generator, users: int, *, temperature: float = 1.0) -> list[list[Window]]:
        """Return every window in shuffled groups of at most `users`, each of one domain that has an event task.

        A temperature other than 1 draws the same number of groups, but of each domain as `tempered` says: some of its
        windows are left out, or come again, cut anew.
        """
        drawn = [self._of_domain(domain, rng, users) for domain in self._domains]
        if temperature != 1.0:
            for own, count, domain in zip(drawn, tempered([*map(len, drawn)], temperature), self._domains, strict=True):
                while len(own) < count:
                    own += self._of_domain(domain, rng, users)
                del own[count:]
        groups = [group for own in drawn for group in own]
        return [groups[i] for i in rng.permutation(len(groups))]

    def _of_domain(self, domain: str, rng: np.random.Generator, users: int) -> list[list[Window]]:
        windows = [w for user in range(len(self.arrays.user_ids)) for w in self._of_user(user, domain, rng)]
        order = rng.permutation(len(windows))
        return [[windows[i] for i in order[at : at + users]] for at in range(0, len(order), users)]

    @cached_property
    def _domains(self) -> list[str]:
        """The domains whose events carry a label."""
        labelled = {task.domain for task in self.arrays.tasks if task.source == "events"}
        return [domain for domain in self.arrays.domains if domain in labelled]

    def _of_user(self, user: int, domain: str, rng: np.random.Generator) -> list[Window]:
        """Return the user's windows in the domain that hold a label; the first is cut short at random: cuts move."""
        rows = self.train_rows(user)
        span = self.arrays.domains[domain]
        items = self.arrays.event_item[rows]
        mine = rows[1:][(items[1:] >= span.start) & (items[1:] < span.stop)]  # the first event has no history
        if not len(mine):
            return []
        first = int(rng.integers(1, self.targets + 1))
        cuts = [0, *range(first, len(mine), self.targets), len(mine)]
        return [Window(user, domain, mine[a:b]) for a, b in pairwise(cuts) if self._labelled[mine[a:b]].any()]

    @cached_property
    def _labelled(self) -> npt.NDArray[np.bool_]:
        """Return whether each event carries a label of any task."""
        tasks = [task for task in self.arrays.tasks if task.source == "events"]
        known: npt.NDArray[np.bool_] = np.any([~np.isnan(self.arrays.labels(task.name)) for task in tasks], axis=0)
        return known

    def train_rows(self, user: int) -> IntArray:
        """Return the user's TRAIN events, oldest first."""
        rows, start = self._train
        return rows[start[user] : start[user + 1]]

    @cached_property
    def _train(self) -> tuple[IntArray, IntArray]:
        """All TRAIN events, and where each user's begin among them."""
        rows = np.flatnonzero(self.arrays.event_fold == Fold.TRAIN)
        return rows, np.searchsorted(rows, self.arrays.user_start)

    def history(self, window: Window, longest: int) -> IntArray:
        """Return the TRAIN events before the window, latest first, at most `longest`."""
        rows = self.train_rows(window.user)
        before: IntArray = rows[rows < window.rows[0]][::-1][:longest]
        return before

    def negatives(self, rng: np.random.Generator, domain: str, count: int) -> IntArray:
        """Draw catalogue rows of the domain uniformly, never a strict cold item."""
        return sample_negatives(rng, self.arrays.domains[domain], count, observed=np.flatnonzero(self.arrays.cold))

    def unobserved(self, user: int, items: IntArray) -> FloatArray:
        """Return 1 where the user has no TRAIN event with the item, else 0, (items,)."""
        return (~np.isin(items, self.arrays.event_item[self.train_rows(user)])).astype(np.float32)

    def priors(self, windows: list[Window], candidates: IntArray) -> FloatArray:
        """Return priors (windows, candidates, 3); a target's own event is left out of its counts.

        `candidates` (windows, targets + others) holds catalogue rows, each window's events first; -1 is padding.
        """
        safe = np.maximum(candidates, 0)
        count, value_sum = self.arrays.support
        counts, sums = count[safe], value_sum[safe]
        for number, window in enumerate(windows):
            counts[number, : len(window.rows)] -= 1
            sums[number, : len(window.rows)] -= self.arrays.residual[window.rows]
        return prior_features(counts, sums, self.arrays.most_events[safe])
