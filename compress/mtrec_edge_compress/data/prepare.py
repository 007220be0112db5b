"""From raw sources to one dataset folder: read, clean, scrub, pseudonymise, merge, split, check, write, report.

Writes the dataset, its report, and (outside the dataset) the key of the pseudonyms. Knows no source format.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from mtrec_edge_compress.data.adapters import Adapter, read_source
from mtrec_edge_compress.data.cleaning import Cleaned, clean, without_equal_texts
from mtrec_edge_compress.data.privacy import load_key, pseudonymise, scrub
from mtrec_edge_compress.data.report import Report, SourceReport, make_report, table_sizes
from mtrec_edge_compress.data.schema import Dataset
from mtrec_edge_compress.data.split import EventsBy, keep_few, split
from mtrec_edge_runtime.errors import DataError

Progress = Callable[[str], None]


def prepare(
    sources: Sequence[tuple[str, Path]],
    out: Path,
    *,
    key_file: Path | None = None,
    seed: int = 0,
    sample_users: Mapping[str, int] | None = None,
    events_by: EventsBy = "user",
    few_events: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Make one dataset folder of the sources, given as (adapter, folder), and return its report.

    Args:
        sources: Several sources become one dataset of several domains.
        out: The folder to write; an existing dataset there is replaced.
        key_file: Key of the user pseudonyms, made when it does not exist; by default `OUT.key` beside the folder.
            Whoever has it can link pseudonyms to users: keep it, and keep it apart from the dataset.
        seed: Of the split and of the sampling of users.
        sample_users: Adapter -> how many users to keep of its source, drawn at random; all items stay.
        events_by: Whether events are split by time within each user, or at one moment for all: see `split`.
        few_events: Domain -> how many of its training events to keep: see `keep_few`.
        progress: Called with one line as each step begins.

    Raises:
        DataError: A source or the merged dataset breaks the data contract, or an adapter is unknown.
    """
    say = progress or (lambda line: None)
    adapters = [_adapter(name) for name, _ in sources]
    samples = _samples(sample_users or {}, adapters)
    key = load_key(_key_place(key_file, out))
    parts, reports = [], []
    for adapter, (_, source) in zip(adapters, sources, strict=True):
        say(f"{adapter}: reading, cleaning and scrubbing {source.name}")
        part, counts = _prepare_source(adapter, source, key=key, users=samples.get(adapter), seed=seed)
        parts.append(part)
        reports.append(counts)
    say("merging, splitting and checking")
    dataset = split(merge(parts, name=out.resolve().name), seed, events_by=events_by)
    for domain, count in (few_events or {}).items():
        dataset = keep_few(dataset, domain, count)
    dataset.write(out)
    report = make_report(dataset, tuple(reports))
    report.write(out)
    return report


def merge(parts: Sequence[Dataset], *, name: str) -> Dataset:
    """Return one dataset of several that share no domain and no task.

    Raises DataError when there is nothing to merge, or when two parts bring the same domain.
    """
    if not parts:
        raise DataError("no source given: name at least one, e.g. `mtrec-edge prepare FOLDER --adapter table`")
    owner: dict[str, str] = {}
    for part in parts:
        for domain in sorted({*part.items["domain"], *part.texts["domain"]}):
            if domain in owner:
                raise DataError(
                    f"domain {domain!r} comes from two sources, {owner[domain]} and {part.name}: put both into one "
                    "mapping file of the table adapter, or rename one domain"
                )
            owner[domain] = part.name
    return Dataset(
        name=name,
        items=pl.concat([part.items for part in parts], how="diagonal"),
        events=pl.concat([part.events for part in parts]),
        texts=pl.concat([part.texts for part in parts], how="diagonal"),
        tasks=tuple(task for part in parts for task in part.tasks),
        licence="; ".join(dict.fromkeys(part.licence for part in parts if part.licence)),
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
    )


def draw_users(dataset: Dataset, count: int, *, seed: int) -> Dataset:
    """Return the dataset with the events of `count` users drawn at random; all items stay; a note says so."""
    users = dataset.events["user_id"].unique(maintain_order=True)
    if count >= len(users):
        return dataset
    rng = np.random.default_rng([seed, 1])
    kept = users.gather(np.sort(rng.choice(len(users), count, replace=False)))
    note = f"{dataset.name}: a random sample of {count:,} of {len(users):,} users"
    events = dataset.events.filter(pl.col("user_id").is_in(kept.to_list()))
    return replace(dataset, events=events, notes=(*dataset.notes, note))


def _prepare_source(
    adapter: Adapter, source: Path, *, key: bytes, users: int | None, seed: int
) -> tuple[Dataset, SourceReport]:
    raw = read_source(adapter, source)
    cleaned = clean(raw)
    _refuse_emptied(raw, cleaned, source)
    dataset = cleaned.dataset if users is None else draw_users(cleaned.dataset, users, seed=seed)
    scrubbed = scrub(dataset)
    distinct = without_equal_texts(scrubbed.dataset)
    dropped = {**cleaned.dropped, **distinct.dropped}
    if len(dataset.events) < len(cleaned.dataset.events):
        dropped["events: user not in the sample"] = len(cleaned.dataset.events) - len(dataset.events)
    report = SourceReport(
        adapter=adapter.value,
        name=raw.name,
        read=table_sizes(raw),
        kept=table_sizes(distinct.dataset),
        dropped=dropped,
        scrubbed=scrubbed.replaced,
    )
    return pseudonymise(distinct.dataset, key), report


def _refuse_emptied(raw: Dataset, cleaned: Cleaned, source: Path) -> None:
    """Refuse a source of whose items, events or texts no row is usable: its columns are mixed up."""
    kept = table_sizes(cleaned.dataset)
    for table, read in table_sizes(raw).items():
        if read and not kept[table]:
            reasons = ", ".join(f"{count:,} {why}" for why, count in cleaned.dropped.items() if why.startswith(table))
            raise DataError(f"{source}: none of {read:,} {table} is usable ({reasons}): are the right columns named?")


def _samples(asked: Mapping[str, int], adapters: Sequence[Adapter]) -> dict[Adapter, int]:
    samples = {_adapter(name): count for name, count in asked.items()}
    if strangers := sorted(set(samples) - set(adapters)):
        found = ", ".join(adapters) or "none"
        raise DataError(f"users of {strangers[0]} are to be sampled, but no source has that adapter (found {found})")
    return samples


def _key_place(key_file: Path | None, out: Path) -> Path:
    """Return where the key lies, `OUT.key` when nothing was said; refuse a place inside the dataset."""
    place = key_file or out.resolve().with_name(f"{out.resolve().name}.key")
    if place.resolve().is_relative_to(out.resolve()):
        raise DataError(f"key file {place} lies in the dataset {out}: keep it elsewhere, or pseudonyms hide nothing")
    return place


def _adapter(name: str) -> Adapter:
    try:
        return Adapter(name)
    except ValueError as error:
        raise DataError(f"adapter {name!r} is unknown: choose one of {', '.join(Adapter)}") from error
