"""What an app passes in - events, new items, candidates - and how a history becomes the ranker's inputs.

Reads and writes nothing. Knows the input contract and the catalogue, not the graphs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrec_edge_runtime.catalogue import MEAN_VALUE, Catalogue
from mtrec_edge_runtime.encoder import Encode
from mtrec_edge_runtime.errors import InputError
from mtrec_edge_runtime.manifest import Behaviour, InputContract
from mtrec_edge_runtime.text import item_text

MAX_VALUE = 1e12  # of an event, either sign: what is beyond would leave the range of the ranker's float32


@dataclass(frozen=True)
class NewItem:
    """An item the catalogue does not hold, known by its text."""

    title: str
    description: str = ""
    tags: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Refuse fields that are not text; one string for `tags` would be read letter by letter."""
        listed = isinstance(self.tags, Sequence) and not isinstance(self.tags, str)
        if not listed or not all(isinstance(part, str) for part in (self.title, self.description, *self.tags)):
            raise InputError(f"{self!r:.120}: title and description are texts, tags a list of texts")
        object.__setattr__(self, "tags", tuple(self.tags))  # so that it cannot change after the check, and has a hash

    @property
    def text(self) -> str:
        """The one text that is encoded."""
        return item_text(self.title, self.description, self.tags)


@dataclass(frozen=True)
class Event:
    """One past event of a user: exactly one of `item` (an id of the catalogue) and `text`."""

    item: str | None = None
    text: str | NewItem | None = None
    domain: str | None = None  # None: the domain that is scored
    behaviour: str | None = None  # None: the domain's first in the bundle; for a value, its first with values
    value: float | None = None  # rating or amount, in the units of the training data

    def __post_init__(self) -> None:
        """Refuse an event with no item, with two, or with a value that is not a finite number."""
        if (self.item is None) == (self.text is None):
            raise InputError(f"event {self!r:.120}: give exactly one of item= (an id) and text=")
        if not isinstance(self.item, str | None) or not isinstance(self.text, str | NewItem | None):
            raise InputError(f"event {self!r:.120}: item is an id, text a text or a NewItem")
        if not all(name is None or isinstance(name, str) for name in (self.domain, self.behaviour)):
            raise InputError(f"event {self!r:.120}: domain and behaviour are names")
        value = self.value
        number = isinstance(value, Real) and not isinstance(value, bool)
        if value is not None and not (number and abs(float(value)) <= MAX_VALUE):
            raise InputError(
                f"event value {value!r:.60} is not a finite number within {MAX_VALUE:g}; leave it out if there is none"
            )


HistoryEntry = str | Event
Candidate = str | NewItem


def check_history(history: Sequence[HistoryEntry], domain: str, *, may_be_empty: bool) -> list[Event]:
    """Return every entry as an event with its domain, oldest first; InputError when there is none and must be."""
    if isinstance(history, str) or not isinstance(history, Sequence):
        raise InputError(f"history={history!r:.60}: give a list of item ids or Event, oldest first")
    if not history and not may_be_empty:
        raise InputError(
            "empty history: give at least one item id or Event(text=...) the user has met, for this bundle's ranker "
            "never met a user without (history_dropout = 0 in distill.tasks or prune.tasks)"
        )
    return [_as_event(entry, domain) for entry in history]


def _as_event(entry: HistoryEntry, domain: str) -> Event:
    if isinstance(entry, str):
        return Event(item=entry, domain=domain)
    if not isinstance(entry, Event):
        raise InputError(
            f"history entry {entry!r:.60} is {type(entry).__name__}: give an item id or an Event; "
            "a text or a NewItem is Event(text=...)"
        )
    return entry if entry.domain else Event(entry.item, entry.text, domain, entry.behaviour, entry.value)


class HistoryReader:
    """Turn checked events into the ranker's inputs, as docs/bundle-format.md lays them out."""

    def __init__(self, contract: InputContract, catalogue: Catalogue, encode: Encode) -> None:
        self._contract = contract
        self._catalogue = catalogue
        self._encode = encode
        self._behaviours: dict[tuple[str, str | None], int] = {}
        self._valued: dict[str, int] = {}  # domain -> its first behaviour that has values
        for index, behaviour in enumerate(contract.behaviours):
            self._behaviours[behaviour.domain, behaviour.name] = index
            self._behaviours.setdefault((behaviour.domain, None), index)
            if behaviour.valued:
                self._valued.setdefault(behaviour.domain, index)

    def read(self, events: Sequence[Event]) -> tuple[dict[str, NDArray[Any]], NDArray[np.intp]]:
        """Return history, behaviour, value, age and history_mask for one user, and each event's catalogue row.

        Latest event first; a row is -1 for an event that is a text. Only the latest `max_history` events are looked at.
        No event at all is one that is padding. InputError names an unknown item, domain or behaviour.
        """
        if not events:
            return _nobody(self._contract.vector_size), np.full(1, -1, np.intp)
        latest = list(reversed(events[-self._contract.max_history :]))
        rows = np.array([self._row(event) for event in latest], np.intp)
        indexes = [self._behaviour(event) for event in latest]
        chosen = [self._contract.behaviours[index] for index in indexes]
        values = [_normalised(event, behaviour) for event, behaviour in zip(latest, chosen, strict=True)]
        count = len(latest)
        feeds: dict[str, NDArray[Any]] = {
            "history": self._vectors(latest, rows)[None],
            "behaviour": np.array([indexes], np.int64),
            "value": (np.array(values, np.float32) - self._usual(latest, rows))[None],
            "age": np.arange(count, dtype=np.int64)[None],
            "history_mask": np.ones((1, count), np.int64),
        }
        return feeds, rows

    def _row(self, event: Event) -> int:
        return -1 if event.item is None else self._catalogue.row(event.domain or "", event.item)

    def _behaviour(self, event: Event) -> int:
        index = self._behaviours.get((event.domain or "", event.behaviour))
        if event.behaviour is None and event.value is not None:
            index = self._valued.get(event.domain or "", index)
        if index is None:
            known = [f"{b.domain}.{b.name}" for b in self._contract.behaviours]
            raise InputError(
                f"unknown behaviour {event.behaviour!r} of domain {event.domain!r}; the bundle knows {', '.join(known)}"
            )
        return index

    def _usual(self, events: Sequence[Event], rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return what each event's item usually gets, float32 (events,); 0 for a text, and without a value."""
        usual = np.zeros(len(rows), np.float32)
        told = (rows >= 0) & np.array([event.value is not None for event in events])
        usual[told] = self._catalogue.priors(rows[told])[:, MEAN_VALUE]
        return usual

    def _vectors(self, events: Sequence[Event], rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return the events' item vectors float32 (events, D): from the catalogue, or encoded."""
        vectors = np.empty((len(events), self._contract.vector_size), np.float32)
        vectors[rows >= 0] = self._catalogue.vectors(rows[rows >= 0])
        new = np.flatnonzero(rows < 0).tolist()
        if new:
            vectors[new] = self._encode([_text(events[position]) for position in new])
        return vectors


def _nobody(vector_size: int) -> dict[str, NDArray[Any]]:
    """Return the inputs of a user of whom nothing is known."""
    padding = np.zeros((1, 1), np.int64)
    history, value = np.zeros((1, 1, vector_size), np.float32), np.zeros((1, 1), np.float32)
    return {"history": history, "behaviour": padding, "value": value, "age": padding, "history_mask": padding}


def _text(event: Event) -> str:
    return event.text.text if isinstance(event.text, NewItem) else event.text or ""


def _normalised(event: Event, behaviour: Behaviour) -> float:
    if event.value is None:
        return 0.0
    if not behaviour.valued:
        raise InputError(
            f"event value {event.value!r:.60}: {behaviour.domain}.{behaviour.name} has no values; leave it out, or "
            "name another behaviour"
        )
    return (event.value - behaviour.mean) / behaviour.scale
