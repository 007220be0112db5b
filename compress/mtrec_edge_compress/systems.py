"""Evaluate bundles with the baselines beside them, on the same users.

Reads bundle folders and Arrays, returns the systems table as a JSON-able dict. Knows nothing of torch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mtrec_edge_compress.baselines import fit_baselines
from mtrec_edge_compress.baselines.baseline import Baseline
from mtrec_edge_compress.bootstrap import interval, mean_draws
from mtrec_edge_compress.bundle_scorer import BundleScorer
from mtrec_edge_compress.data.arrays import Arrays
from mtrec_edge_compress.evaluate import Evaluation, evaluate
from mtrec_edge_compress.judged_before import check_same_users, protocol_notes, read_judged
from mtrec_edge_compress.judgement import Scorer, Scores
from mtrec_edge_compress.narrowed import AfterOneLike, NewUser, SimilarItems
from mtrec_edge_compress.systems_table import against, item_slices, slices
from mtrec_edge_runtime.errors import InputError
from mtrec_edge_runtime.manifest import Profile

FUSED = "fused"  # the bundle as it ships
TEXT = "text"  # the same bundle with the links of its catalogue withheld
NEW = {events: f"fused, {events} events" for events in (0, 3)}  # the bundle, shown the latest few events alone
ONE_LIKE = ", 1 like"  # behind the name of a system that is shown the latest liked item alone
SIMILAR = "similar" + ONE_LIKE  # the bundle's similar items
ITEM_TO_ITEM = ("item-knn", "ease", "tf-idf")  # baselines that answer to one like too

Evaluations = dict[str, list[Evaluation]]  # system -> its evaluations, a part of the tasks each


def evaluate_bundles(
    paths: Sequence[Path],
    arrays: Arrays,
    *,
    profile: Profile = "fast",
    users_per_domain: int | None = None,
    seed: int = 0,
    judged_before: Sequence[Path] = (),
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Judge bundles and the baselines on the TEST fold; return the systems table as a JSON-able dict.

    Several bundles are one system, made with several seeds: every value is the mean over them, and so is every user's
    value, over which the interval of a mean is drawn; any other interval is the mean of theirs. `judged_before` names
    result files of this function, one seed each, that count as if their bundles were judged now.

    * `systems`: the bundle (`fused`, and shown less: see docs/evaluation.md), baselines -> task -> metric -> value
    * `intervals`: system -> task -> metric -> 95 % bounds over users
    * `seeds`: the bundles' own; `judged_before`: seed -> the file that stands for it; `by_seed`: task -> each bundle's
      headline metric
    * `counts` and `chance`: by task; `settings`: what validation chose for each baseline
    * `against`: one of the bundle's systems -> task -> other system -> paired bootstrap of the former's per-user values
      less the latter's, with Holm's p
    * `by_history`, `by_item`: see `slices` and `item_slices`
    * `reliability`: task -> the first bundle's `predicted`, `happened` and `events` of each bin of probability
    * `per_user`: system -> task -> metric -> a value for each user or row judged, None where there is none

    `progress` is told a line at a time.

    Raises:
        InputError: no bundle, a bundle of another split or catalogue, bundles of different tasks, or of one seed beside
            one judged before, or a result file that does not fit (see `read_judged`).
    """
    test = _Test(arrays, users_per_domain, seed)
    bundles = _open(paths, arrays, profile)
    as_now = protocol_notes(profile, seed, users_per_domain)
    before = [read_judged(path, arrays, notes=as_now) for path in judged_before]
    seeds = [bundle.recommender.manifest.data.get("seed") for bundle in bundles]
    _check_once([*seeds, *(found.seed for found in before)])
    served = bundles[0].tasks
    judged = [_views(test, path, scorer, profile, progress) for path, scorer in zip(paths, bundles, strict=True)]
    for earlier in before:
        check_same_users(earlier, judged[0])
        judged.append(earlier.systems)
    ours = {name: [mean_over_seeds([views[name] for views in judged])] for name in judged[0]}
    baselines, beside, settings = _baselines(test, served, progress)
    known: Evaluations = {**ours, **baselines, **beside}
    whole = ours[FUSED][0]
    tasks = [arrays.task(name) for name in served]
    rivals = {
        FUSED: {name: known[name] for name in known if name not in (*NEW.values(), *_after_one_like(known))},
        **{new: {name: known[name] for name in (new, "popularity") if name in known} for new in NEW.values()},
        SIMILAR: {name: known[name] for name in _after_one_like(known)},
    }
    return {
        "bundle": ", ".join(path.name for path in paths),
        "profile": profile,
        "seeds": [*seeds, *(found.seed for found in before)],
        "judged_before": {str(found.seed): found.source for found in before},
        "by_seed": {
            task.name: [views[FUSED].tasks[task.name].get(task.headline) for views in judged] for task in tasks
        },
        "dataset": {"name": arrays.dataset.name, "split_hash": arrays.dataset.split_hash},
        "users_per_domain": users_per_domain,
        "seed": seed,
        "headlines": {task.name: task.headline for task in tasks},
        "systems": {
            name: {task: dict(values) for part in parts for task, values in part.tasks.items()}
            for name, parts in known.items()
        },
        "intervals": {name: _bounds(parts) for name, parts in known.items()},
        "counts": whole.counts,
        "chance": whole.chance,
        "settings": settings,
        "by_history": slices(tasks, rivals[FUSED]),
        "by_item": item_slices(tasks, rivals[FUSED]),
        "reliability": {name: _bins(found) for name, found in whole.reliability.items()},
        "per_user": {name: _per_user(parts) for name, parts in known.items()},
        "against": {
            ours: {task.name: found for task in tasks if (found := against(task, others, ours=ours))}
            for ours, others in rivals.items()
        },
    }


@dataclass(frozen=True)
class _Test:
    """How every system is judged."""

    arrays: Arrays
    users: int | None
    seed: int

    def judge(self, system: Scorer, tasks: Sequence[str], *, calibrated: bool = True) -> Evaluation:
        """Judge one system on the TEST fold."""
        return evaluate(
            system,
            self.arrays,
            users_per_domain=self.users,
            seed=self.seed,
            tasks=tasks,
            calibrated=calibrated,
            drawn=True,
        )

    def ranked(self, tasks: Sequence[str]) -> list[str]:
        """Return those tasks that order a catalogue."""
        return [name for name in tasks if self.arrays.task(name).negatives]


def _open(paths: Sequence[Path], arrays: Arrays, profile: Profile) -> list[BundleScorer]:
    if not paths:
        raise InputError("no bundle to evaluate: name at least one folder")
    bundles = [BundleScorer(path, arrays, profile=profile) for path in paths]
    for path, bundle in zip(paths, bundles, strict=True):
        for what, first, other in zip(_ALIKE, _traits(bundles[0]), _traits(bundle), strict=True):
            if first != other:
                raise InputError(
                    f"{what} {paths[0]}: {first}, {path}: {other}; evaluate together only bundles that one recipe made "
                    "with several seeds"
                )
    return bundles


_ALIKE = ("tasks of", "a first visit answered by", "items linked by use in")


def _traits(bundle: BundleScorer) -> tuple[str, str, str]:
    """Return by what bundles of one recipe are alike, and are judged."""
    opened = bundle.recommender
    answers = (opened.manifest.input.no_history, len(opened.catalogue.neighbours) > 0)
    first_visit, linked = ("yes" if answer else "no" for answer in answers)
    return ", ".join(bundle.tasks), first_visit, linked


def _check_once(seeds: Sequence[int | None]) -> None:
    for number, seed in enumerate(seeds):
        if seed is not None and seed in seeds[:number]:
            raise InputError(f"seed {seed} is given twice, as a bundle or as judged before: name each seed once")


def _views(
    test: _Test, path: Path, scorer: BundleScorer, profile: Profile, progress: Callable[[str], None]
) -> dict[str, Evaluation]:
    """Judge one bundle as it ships, without its links, on new users, and by its similar items."""
    progress(f"bundle {path.name}, profile {profile}: {len(scorer.tasks)} tasks")
    found = {FUSED: test.judge(scorer, scorer.tasks)}
    pairs = [name for name in scorer.tasks if test.arrays.task(name).source == "events"]
    ranked = test.ranked(scorer.tasks)
    if len(scorer.recommender.catalogue.neighbours):
        progress(f"bundle {path.name} without links")
        found[TEXT] = test.judge(BundleScorer(path, test.arrays, profile=profile, links=False), pairs)
    if ranked:
        for events, name in NEW.items():
            if events or scorer.recommender.manifest.input.no_history:
                progress(f"bundle {path.name} with {events} events")
                found[name] = test.judge(NewUser(scorer, events), ranked)
        progress(f"bundle {path.name} with one like")
        found[FUSED + ONE_LIKE] = test.judge(AfterOneLike(scorer, test.arrays), ranked)
        listed = AfterOneLike(SimilarItems(scorer.recommender, test.arrays), test.arrays)
        found[SIMILAR] = test.judge(listed, ranked, calibrated=False)
    return found


def mean_over_seeds(parts: Sequence[Evaluation]) -> Evaluation:
    """Return evaluations of one system made with several seeds, judged on the same users, as one."""
    first = parts[0]
    if len(parts) == 1:
        return first
    per_user = {
        task: {metric: np.mean([part.per_user[task][metric] for part in parts], axis=0) for metric in own}
        for task, own in first.per_user.items()
    }
    tasks = {
        task: {metric: float(np.mean([part.tasks[task][metric] for part in parts])) for metric in own}
        for task, own in first.tasks.items()
    }
    intervals = {
        task: {metric: _bounds_over_seeds(parts, per_user, task, metric) for metric in own}
        for task, own in first.intervals.items()
    }
    return replace(first, tasks=tasks, per_user=per_user, intervals=intervals, draws={})


def _bounds_over_seeds(
    parts: Sequence[Evaluation], per_user: Mapping[str, Mapping[str, Scores]], task: str, metric: str
) -> tuple[float, float]:
    if metric in per_user[task]:
        return interval(mean_draws(per_user[task][metric]))
    low, high = np.mean([part.intervals[task][metric] for part in parts], axis=0)
    return float(low), float(high)


def _baselines(
    test: _Test, served: Sequence[str], progress: Callable[[str], None]
) -> tuple[Evaluations, Evaluations, dict[str, dict[str, str]]]:
    """Judge the baselines; return them, those that are shown one like, and what validation chose."""
    whole: Evaluations = {}
    beside: Evaluations = {}
    settings: dict[str, dict[str, str]] = {}
    for domain in dict.fromkeys(test.arrays.task(name).domain for name in served):
        for name, system in fit_baselines(test.arrays, domain=domain, seed=test.seed, progress=progress).items():
            own = [task for task in system.tasks if task in served]
            whole.setdefault(name, []).append(test.judge(system, own, calibrated=False))
            settings.setdefault(name, {}).update(system.settings)
            if name in ITEM_TO_ITEM and test.ranked(own):
                beside.setdefault(name + ONE_LIKE, []).append(_one_like(test, system, own))
    return whole, beside, settings


def _one_like(test: _Test, system: Baseline, tasks: Sequence[str]) -> Evaluation:
    return test.judge(AfterOneLike(system, test.arrays), test.ranked(tasks), calibrated=False)


def _after_one_like(names: Mapping[str, Any]) -> list[str]:
    return [name for name in names if name.endswith(ONE_LIKE)]


def _bounds(parts: Sequence[Evaluation]) -> dict[str, dict[str, list[float]]]:
    return {
        task: {metric: list(bounds) for metric, bounds in found.items()}
        for part in parts
        for task, found in part.intervals.items()
    }


def _bins(found: tuple[Scores, ...]) -> dict[str, list[float | None]]:
    columns = zip(("predicted", "happened", "events"), found, strict=True)
    return {name: [None if np.isnan(v) else round(float(v), 6) for v in column] for name, column in columns}


def _per_user(parts: list[Evaluation]) -> dict[str, dict[str, list[float | None]]]:
    return {
        task: {metric: [None if np.isnan(v) else round(float(v), 6) for v in column] for metric, column in own.items()}
        for part in parts
        for task, own in part.per_user.items()
    }
