"""The door of the device runtime: one open bundle that scores, ranks, explains, classifies and tags.

Reads a bundle folder; writes nothing, opens no socket. Puts together what the other modules do: manifest, encoder,
catalogue, history and the ranker graph.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtrec_edge_runtime.candidates import Candidates
from mtrec_edge_runtime.catalogue import Catalogue
from mtrec_edge_runtime.encoder import Encoder, Float32, check_text
from mtrec_edge_runtime.errors import InputError
from mtrec_edge_runtime.explanation import Explanation, Inputs, explain
from mtrec_edge_runtime.history import Candidate, Event, HistoryEntry, HistoryReader, NewItem, check_history
from mtrec_edge_runtime.manifest import Manifest, Profile, read_manifest
from mtrec_edge_runtime.session import Graph, check_finite, whole_number
from mtrec_edge_runtime.tasks import Kind, Task, order_name

RANKER_INPUTS = ("history", "behaviour", "value", "age", "history_mask", "candidates", "priors", "affinity", "asked")
SCORES = "scores"  # the ranker's output
OUTSIDE = "O"  # a token task's label for a word that belongs to nothing

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Ranked:
    """One line of a ranking."""

    item: str  # item id, or the title of a new item
    score: float  # what the list is ordered by: see `rank` and `similar`
    position: int  # its place in `candidates`, from 0; where none were given, in the catalogue's order of the domain


@dataclass(frozen=True)
class Tagged:
    """One word and its label."""

    word: str
    label: str


class Recommender:
    """An open bundle. Thread-safe; open one in each process, for it can be neither forked nor pickled."""

    def __init__(self, path: str | Path, *, profile: Profile = "fast", threads: int = 1, verify: bool = True) -> None:
        """Open the bundle at `path`.

        `profile`: `fast` (dynamic INT8; scores move slightly with batch and CPU) or `exact` (the same weights, FP32
        arithmetic: the same scores everywhere, about twice the encoding time). `verify`: compare every file's
        SHA-256 with the manifest. Raises BundleError when a file is missing, truncated, altered or too new.
        """
        if not isinstance(path, str | Path):
            raise InputError(f"bundle path {path!r:.60}: give the folder of a bundle")
        folder = Path(path)
        self.manifest: Manifest = read_manifest(folder, verify=verify)
        self.tasks: dict[str, Task] = {task.name: task for task in self.manifest.tasks}
        contract = self.manifest.input
        self.encoder = Encoder(folder, self.manifest, profile=profile, threads=threads)
        self.catalogue = Catalogue(folder, self.manifest.domains, vector_size=contract.vector_size)
        self.ranker = Graph(folder / "ranker.onnx", threads=threads, lowest=self.manifest.onnx.onnxruntime)
        self.ranker.require(RANKER_INPUTS, [SCORES])
        self._reader = HistoryReader(contract, self.catalogue, self.encoder.vectors)

    def encode(self, texts: Sequence[str]) -> Float32:
        """Return item vectors float32 (texts, D) of unit length.

        A text is cut at the contract's `max_tokens`; InputError for an empty list, a blank text or one beyond
        20,000 characters.
        """
        if isinstance(texts, str) or not isinstance(texts, Sequence) or not texts:
            raise InputError(f"texts={texts!r:.60}: give a list of at least one text")
        return self.encoder.vectors(texts)

    def score(
        self,
        history: Sequence[HistoryEntry],
        candidates: Sequence[Candidate] | None = None,
        *,
        domain: str,
        tasks: Sequence[str] | None = None,
    ) -> dict[str, Scores]:
        """Return task -> scores float64 (candidates,) for a user known by `history`, oldest event first.

        Regression in the task's units, clipped to its range; binary as probability. `candidates` None: every item of
        the domain in catalogue order. `tasks` None: every (user, item) task of the domain. An empty history is a user
        of whom nothing is known. InputError for one where the bundle knows no such user (`manifest.input.no_history`),
        no candidates, an unknown item, domain, behaviour or task, or a value that is not finite.
        """
        chosen = self._pair_tasks(domain, tasks)
        items = self._candidates(candidates, domain)
        raw = self._raw_scores(self._events(history, domain), items, [task.name for task in chosen])
        return {task.name: _presented(task, values) for task, values in zip(chosen, raw, strict=True)}

    def rank(
        self,
        history: Sequence[HistoryEntry],
        *,
        task: str,
        k: int = 10,
        candidates: Sequence[Candidate] | None = None,
        exclude: Collection[str] = (),
        exclude_history: bool = True,
    ) -> list[Ranked]:
        """Return the best `k` items for a task, best first; ties in candidate order.

        Items of the history (unless `exclude_history` is False) and of `exclude` are left out, also when they stand
        in `candidates`; an id that stands there twice is ranked once. A line's score is the task's as `score` gives it.
        Where the task has an order of its own (see `order`) it is a share: how likely, of the candidates left, this is
        the next one the user likes.
        """
        known = self._task(task, pairwise=True)
        output = order_name(known.name, self.manifest.outputs)
        events = self._events(history, known.domain)
        left_out = self._excluded_rows(events if exclude_history else (), exclude, known.domain)
        items = self._candidates(candidates, known.domain)
        raw = self._raw_scores(events, items, [output])[0]
        kept = np.flatnonzero(~np.isin(items.rows, left_out) & items.first)
        first = _best(raw[kept], k)
        scores = _presented(known, raw[kept][first]) if output == known.name else _shares(raw[kept])[first]
        return [Ranked(items.name(at), float(score), int(at)) for at, score in zip(kept[first], scores, strict=True)]

    def order(
        self, history: Sequence[HistoryEntry], candidates: Sequence[Candidate] | None = None, *, task: str
    ) -> Scores:
        """Return what `rank` orders by, float64 (candidates,): a logit or an amount, the greater the better.

        A binary task trained on explicit labels has an order of its own: `score` says how likely the user likes an
        item once met, the order how likely they meet and like it. Otherwise it is the task's raw score.
        """
        known = self._task(task, pairwise=True)
        items = self._candidates(candidates, known.domain)
        events = self._events(history, known.domain)
        order = order_name(known.name, self.manifest.outputs)
        return np.asarray(self._raw_scores(events, items, [order])[0], np.float64)

    def explain(self, history: Sequence[HistoryEntry], item: Candidate, *, task: str) -> Explanation:
        """Return why `item` stands where `rank` puts it: what its score owes to events, links and priors.

        An effect is the score (what `order` gives: a logit or an amount) less the score without that part; parts that
        say the same do not add up. `reasons` holds the latest `max_history` events, strongest effect first. InputError
        as for `score`.
        """
        known = self._task(task, pairwise=True)
        events = self._events(history, known.domain)
        items = self._candidates([item], known.domain)
        asked = self._asked([order_name(known.name, self.manifest.outputs)])
        ((_, inputs),) = self._inputs(events, items)

        def ask(batch: Inputs) -> Float32:
            scores: Float32 = self.ranker.run({**batch, "asked": asked}, [SCORES])[0]
            return check_finite(scores[:, 0, 0], self.ranker.path)

        return explain(inputs, events, ask=ask, strangers=self.manifest.input.no_history)

    def similar(self, item: Candidate, *, domain: str, k: int = 10) -> list[Ranked]:
        """Return the `k` items of a domain nearest to `item` in text and in use, nearest first, without itself.

        `item` is an id of that domain or a NewItem. The score is `cosine + l / max l`: the cosine of the two vectors,
        and what users did together, `l` being `Neighbours.reach` of `item`. Texts tell what is alike, links what is
        used together. A NewItem and an item that few users met have no links: the score is the cosine. It is at most 2,
        orders one list, and is no probability.
        """
        query, items = self._candidates([item], domain), self._candidates(None, domain)
        ((_, vector, _),) = query.parts()
        near = np.empty(len(items), np.float32)
        for part, vectors, _ in items.parts():
            near[part] = np.einsum("id,d->i", vectors, vector[0])  # no BLAS threads
        links = self.catalogue.neighbours.reach(int(query.rows[0]))[items.rows]
        if (strongest := links.max(initial=0)) > 0:
            near += links / strongest
        check_finite(near, self.catalogue.folder)
        kept = np.flatnonzero(items.rows != query.rows[0])
        best = kept[_best(near[kept], k)]
        return [Ranked(items.name(at), float(near[at]), int(at)) for at in best]

    def classify(self, item: str | NewItem, *, task: str) -> dict[str, float]:
        """Return label -> probability of a multiclass task for a text or a NewItem, most probable first."""
        known = self._task(task, kind=Kind.MULTICLASS)
        logits = self.encoder.logits(item.text if isinstance(item, NewItem) else item, task).astype(np.float64)
        odds = np.exp(logits - logits.max())
        probabilities = odds / odds.sum()
        return {known.labels[at]: float(probabilities[at]) for at in np.argsort(-probabilities, kind="stable")}

    def tag(self, text: str, *, task: str) -> list[Tagged]:
        """Return each whitespace-separated word of `text` with its label of a token task.

        A word cut off at `max_tokens`, or with nothing but control characters, is `O`; InputError when the task has
        no such label.
        """
        known = self._task(task, kind=Kind.TOKEN)
        words = check_text(text).split()
        rows = self.encoder.word_logits(words, task)
        if OUTSIDE not in known.labels and any(row is None for row in rows):
            raise InputError(
                f"text of {len(words)} words: not all could be read within {self.manifest.input.max_tokens} tokens; "
                "shorten it or tag it in parts"
            )
        labels = [OUTSIDE if row is None else known.labels[int(row.argmax())] for row in rows]
        return [Tagged(word, label) for word, label in zip(words, labels, strict=True)]

    def _task(self, name: str, *, kind: Kind | None = None, pairwise: bool = False) -> Task:
        """Return the task of that name if it can do what is asked; InputError naming the tasks that can."""
        usable = [
            task.name for task in self.tasks.values() if (pairwise and task.pairwise) or (kind and task.kind is kind)
        ]
        if name not in usable:
            known = isinstance(name, str) and name in self.tasks
            found = f"is a {self.tasks[name].kind} task" if known else "is not in this bundle"
            raise InputError(f"task {name!r} {found}; usable here: {', '.join(usable) or 'none'}")
        return self.tasks[name]

    def _pair_tasks(self, domain: str, names: Sequence[str] | None) -> list[Task]:
        self.catalogue.domain_rows(domain)
        own = [task for task in self.tasks.values() if task.pairwise and task.domain == domain]
        if names is not None:
            if not isinstance(names, Sequence):
                raise InputError(f"tasks={names!r:.60}: give a list of task names, or None for all")
            own = [self._task(name, pairwise=True) for name in ([names] if isinstance(names, str) else names)]
        if wrong := [task.name for task in own if task.domain != domain]:
            raise InputError(
                f"task {wrong[0]!r} does not belong to domain {domain!r}; pass domain={wrong[0].split('.')[0]!r}"
            )
        if not own:
            raise InputError(f"domain {domain!r}: no task that scores a user and an item was asked for or exists")
        return own

    def _candidates(self, items: Sequence[Candidate] | None, domain: str) -> Candidates:
        return Candidates(items, domain=domain, catalogue=self.catalogue, encode=self.encoder.vectors)

    def _events(self, history: Sequence[HistoryEntry], domain: str) -> list[Event]:
        return check_history(history, domain, may_be_empty=self.manifest.input.no_history)

    def _raw_scores(self, events: Sequence[Event], items: Candidates, outputs: Sequence[str]) -> Float32:
        """Return what the ranker gives for these outputs, float32 (outputs, candidates)."""
        asked = self._asked(outputs)
        result = np.empty((len(outputs), len(items)), np.float32)
        for part, inputs in self._inputs(events, items):
            result[:, part] = self.ranker.run({**inputs, "asked": asked}, [SCORES])[0][0].T
        return check_finite(result, self.ranker.path)

    def _asked(self, outputs: Sequence[str]) -> NDArray[np.int64]:
        return np.array([self.manifest.outputs.index(name) for name in outputs], np.int64)

    def _inputs(self, events: Sequence[Event], items: Candidates) -> Iterator[tuple[slice, Inputs]]:
        """Yield slices of the candidates with the ranker's inputs for this user, but for `asked`."""
        feeds, met = self._reader.read(events)
        for part, vectors, priors in items.parts():
            affinity = self.catalogue.neighbours.affinity(met, items.rows_of(part))
            yield part, feeds | {"candidates": vectors[None], "priors": priors[None], "affinity": affinity[None]}

    def _excluded_rows(self, events: Sequence[Event], exclude: Collection[str], domain: str) -> NDArray[np.intp]:
        """Return the rows of `exclude` and of the domain's known items among `events`."""
        if isinstance(exclude, str) or not isinstance(exclude, Collection):
            raise InputError(f"exclude={exclude!r:.60}: give a list of item ids")
        index = self.catalogue.index(domain)
        met = [index[event.item] for event in events if event.domain == domain and event.item and event.item in index]
        return np.concatenate([np.array(met, np.intp), self.catalogue.rows(domain, exclude)])


def _presented(task: Task, raw: Float32) -> Scores:
    """Turn a ranker output into what a person reads: a clipped value or a probability."""
    values = raw.astype(np.float64)
    if task.kind is Kind.BINARY:
        return np.asarray(np.exp(-np.logaddexp(0, -values / task.temperature)))  # sigmoid without overflow
    return np.clip(values, task.low, task.high) if (task.low, task.high) != (None, None) else values


def _shares(raw: Float32) -> Scores:
    """Return the softmax of a ranker output: shares that add up to 1."""
    odds = np.exp(raw.astype(np.float64) - raw.max(initial=-np.inf))
    return np.asarray(odds / max(odds.sum(), np.finfo(np.float64).tiny))


def _best(scores: Float32, k: int) -> NDArray[np.intp]:
    """Return the positions of the `k` greatest scores, greatest first, ties in order."""
    k = whole_number("k", k)
    if k < len(scores):
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        above, equal = np.flatnonzero(scores > least), np.flatnonzero(scores == least)
        positions = np.sort(np.concatenate([above, equal[: k - len(above)]]))
    else:
        positions = np.arange(len(scores))
    return positions[np.argsort(-scores[positions], kind="stable")]
