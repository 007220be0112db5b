"""Batches: the same from the same seed, shared out among processes without loss, and free of what is held out."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from tiny_training import (
    COLLABORATE,
    RECIPE,
    SETTINGS,
    tiny_arrays,
    tokens_for,
    without_collaboration,
    world_arrays,
    world_collaboration,
)
from torch import Tensor

from mtrec_edge_compress.batches import Batch, BatchSource, PairBatch, distinct
from mtrec_edge_compress.collaboration import fit_collaboration
from mtrec_edge_compress.data.arrays import Arrays, IntArray, build_arrays
from mtrec_edge_compress.data.schema import Fold
from mtrec_edge_compress.tokens import Tokens
from mtrec_edge_compress.training_settings import Training
from mtrec_edge_compress.unread import unread_items
from mtrec_edge_runtime.tasks import Kind


@cache
def world_tokens() -> Tokens:
    return tokens_for(world_arrays())


def world_source(settings: Training = SETTINGS, **changes: Any) -> BatchSource:
    return BatchSource(world_arrays(), world_tokens(), world_collaboration(), settings, 8, seed=5, **changes)


def content(value: Any) -> Any:
    """Return everything in a batch as plain lists."""
    if isinstance(value, Tensor):
        return value.nan_to_num(-9.0).tolist()
    if isinstance(value, dict):
        return [[key, content(inner)] for key, inner in value.items()]
    if isinstance(value, tuple):
        return [content(inner) for inner in value]
    if is_dataclass(value):
        return [content(getattr(value, f.name)) for f in fields(value)]
    return value


def contents(batches: Iterable[Batch]) -> list[Any]:
    return [content(batch) for batch in batches]


def test_the_same_seed_gives_the_same_batches_and_another_epoch_others() -> None:
    first, again = contents(world_source().epoch(0)), contents(world_source().epoch(0))
    assert first == again
    assert first != contents(world_source().epoch(1))
    assert len(first) == world_source().steps(0)


def test_an_epoch_can_be_taken_up_in_the_middle() -> None:
    assert contents(world_source().epoch(0, start=3)) == contents(world_source().epoch(0))[3:]


def text_labels(batches: Iterable[Batch]) -> list[tuple[str, int, int]]:
    return sorted(
        (name, int(batch.rows[place]), int(label))
        for batch in batches
        for name, (places, labels) in batch.text_labels.items()
        for place, label in zip(places, labels, strict=True)
    )


def test_two_processes_share_one_batch() -> None:
    whole = list(world_source().epoch(0))
    parts = [list(world_source(rank=rank, world=2).epoch(0)) for rank in (0, 1)]
    for batch, *shares in zip(whole, *parts, strict=True):
        assert all(share.text_counts == batch.text_counts for share in shares)
        assert text_labels(shares) == text_labels([batch])
        assert set(batch.rows.tolist()) == {int(row) for share in shares for row in share.rows}
        assert batch.pairs is not None
        for rank, share in enumerate(shares):
            pairs = share.pairs
            assert pairs is not None and pairs.counts == batch.pairs.counts
            assert pairs.positives == batch.pairs.positives
            mine = slice(rank, None, 2)
            assert torch.equal(pairs.rows[pairs.candidates], batch.pairs.rows[batch.pairs.candidates][mine])
            assert torch.equal(pairs.priors, batch.pairs.priors[mine])
            assert torch.equal(pairs.place, batch.pairs.place[mine])
            events = pairs.history.shape[1]  # a share is as wide as its own longest history
            assert torch.equal(pairs.affinity, batch.pairs.affinity[mine][..., :events])
            assert torch.equal(pairs.allowed, batch.pairs.allowed[mine])
            for name, labels in pairs.labels.items():
                assert torch.equal(labels.nan_to_num(-1), batch.pairs.labels[name][mine].nan_to_num(-1))


def test_a_process_may_have_no_share_of_a_batch() -> None:
    source = world_source(replace(SETTINGS, users=1, texts=1), rank=1, world=2)
    batch = next(source.epoch(0))
    assert batch.pairs is not None
    assert batch.pairs.candidates.shape == (0, SETTINGS.targets + SETTINGS.negatives) and not len(batch.rows)
    assert batch.pairs.affinity.shape == (*batch.pairs.candidates.shape, batch.pairs.history.shape[1])


def with_other_held_out(arrays: Arrays) -> Arrays:
    """The same dataset, but every validation or test event, label and query text says something else."""
    data = arrays.dataset
    held_out = pl.col("fold") != int(Fold.TRAIN)
    first = data.items.group_by("domain").agg(other=pl.col("item_id").first())
    events = data.events.join(first, on="domain", maintain_order="left").with_columns(
        item_id=pl.when(held_out).then("other").otherwise("item_id"),
        value=pl.when(held_out & pl.col("value").is_not_null()).then(1.0).otherwise("value").cast(pl.Float32),
    )
    items = data.items.with_columns(
        category=pl.when(held_out & pl.col("category").is_not_null()).then(pl.lit("category0")).otherwise("category"),
        genre=pl.when(held_out & pl.col("genre").is_not_null()).then(pl.lit("genre0")).otherwise("genre"),
    )
    tags = pl.col("tags").list.eval(pl.lit("O"))
    texts = data.texts.with_columns(tags=pl.when(held_out).then(tags).otherwise("tags"))
    changed = replace(data, events=events.drop("other"), items=items, texts=texts)
    assert not changed.events.equals(data.events) and not changed.items.equals(data.items)
    assert not changed.texts.equals(data.texts)
    return build_arrays(changed)


WHOLE = ({}, {"every_text": True}, {"with_company": True})


@pytest.mark.parametrize("changes", WHOLE)
def test_batches_do_not_depend_on_anything_held_out(changes: dict[str, bool]) -> None:
    arrays = with_other_held_out(world_arrays())
    together, _ = fit_collaboration(arrays, COLLABORATE, seed=0)
    honest = BatchSource(arrays, world_tokens(), together, SETTINGS, 8, seed=5, **changes)
    assert contents(honest.epoch(0)) == contents(world_source(**changes).epoch(0))


@pytest.mark.parametrize("changes", WHOLE)
def test_cold_items_and_held_out_texts_are_in_no_batch(changes: dict[str, bool]) -> None:
    arrays = world_arrays()
    cold = set(np.flatnonzero(arrays.cold).tolist())
    held_out = {len(arrays.item_ids) + int(row) for row in np.flatnonzero(arrays.text_fold != Fold.TRAIN)}
    for batch in world_source(**changes).epoch(0):
        assert batch.pairs is not None
        assert not cold & {int(row) for part in batch.company for row in part.references}
        used = batch.pairs.rows[batch.pairs.candidates[:, SETTINGS.targets :]].flatten().tolist()
        used += batch.pairs.rows[batch.pairs.history][batch.pairs.history_mask > 0].tolist()
        used += batch.pairs.rows[batch.pairs.candidates[:, : SETTINGS.targets]][
            ~batch.pairs.labels[next(iter(batch.pairs.labels))].isnan()
        ].tolist()
        assert not cold & set(used)
        assert not (cold | held_out) & set(batch.rows.tolist())


def test_labels_of_held_out_items_are_in_no_batch() -> None:
    arrays = world_arrays()
    seen = {row for _, row, _ in text_labels(world_source(every_text=True).epoch(0)) if row < len(arrays.item_ids)}
    assert seen and all(arrays.item_fold[row] == Fold.TRAIN for row in seen)


def test_other_candidates_have_the_catalogues_priors() -> None:
    batch = next(world_source(replace(SETTINGS, prior_dropout=0.0)).epoch(0))
    assert batch.pairs is not None
    rows = batch.pairs.rows[batch.pairs.candidates[:, SETTINGS.targets :]]
    expected = torch.from_numpy(world_arrays().priors)[rows]
    assert torch.allclose(batch.pairs.priors[:, SETTINGS.targets :], expected, atol=1e-6)


def test_prior_dropout_shows_every_candidate_as_unseen() -> None:
    batch = next(world_source(replace(SETTINGS, prior_dropout=1.0)).epoch(0))
    assert batch.pairs is not None and not batch.pairs.priors.any() and not batch.pairs.affinity.any()


def test_unread_items_are_never_encoded_and_always_shown_as_unseen() -> None:
    settings = replace(SETTINGS, prior_dropout=0.0, link_dropout=0.0, history_dropout=0.0, fresh_targets=2)
    unread = unread_items(world_arrays(), replace(RECIPE, seed=5, teacher=replace(RECIPE.teacher, unread=0.25)))
    assert len(unread) == round(0.25 * (world_arrays().support[0] > 0).sum())
    whole = world_source(settings, with_company=True)
    source = replace(whole, unread=unread)
    met = 0
    for batch, other in zip(source.epoch(0), whole.epoch(0), strict=True):
        assert not np.isin(batch.rows.numpy(), unread).any()
        assert all(not np.isin(part.references.numpy(), unread).any() for part in batch.company)
        assert batch.pairs is not None and other.pairs is not None
        new = torch.from_numpy(np.isin(rows_of(batch.pairs)[1], unread))
        assert not batch.pairs.priors[new].any() and not batch.pairs.affinity[new].any()
        assert torch.equal(batch.pairs.priors[~new], other.pairs.priors[~new])
        assert torch.equal(batch.pairs.affinity[~new], other.pairs.affinity[~new])
        met += int(other.pairs.priors[new].any(-1).sum())
    assert met  # known items are among them, targets and others


def rows_of(pairs: PairBatch) -> tuple[IntArray, IntArray]:
    """Return the catalogue rows of histories and candidates, -1 for padding."""
    absent = pairs.labels[next(iter(pairs.labels))].isnan()  # every event of the world has a label
    history = pairs.rows[pairs.history].where(pairs.history_mask > 0, -1)
    candidates = pairs.rows[pairs.candidates]
    targets = candidates[:, : absent.shape[1]].where(~absent, -1)
    return history.numpy(), torch.cat([targets, candidates[:, absent.shape[1] :]], 1).numpy()


def test_affinity_is_by_the_weights_that_never_saw_the_user() -> None:
    arrays, together = world_arrays(), world_collaboration()
    seen, padded = set(), 0
    for batch, (windows, _) in zip(world_source().epoch(0), world_source()._plan(0), strict=True):
        assert batch.pairs is not None
        rows = zip(windows, *rows_of(batch.pairs), batch.pairs.affinity, strict=True)
        for window, history, candidates, found in rows:
            assert candidates[: len(window.rows)].tolist() == arrays.event_item[window.rows].tolist()
            expected = together.of_training(window.user).affinity(history, candidates)
            assert np.array_equal(found.numpy(), expected)
            assert not expected[candidates < 0].any() and not expected[:, history < 0].any()
            padded += int((candidates < 0).any() and (history < 0).any())
            seen |= {int(together.part[window.user])} if expected.any() else set()
    assert seen == {0, 1} and padded


def test_a_candidate_without_priors_has_no_affinity() -> None:
    shown, dropped = (next(world_source(replace(SETTINGS, prior_dropout=p)).epoch(0)).pairs for p in (0.0, 0.5))
    assert shown is not None and dropped is not None
    missing = (dropped.priors != shown.priors).any(-1)
    assert 0 < missing.sum() < missing.numel() and shown.affinity[missing].any()
    assert not dropped.affinity[missing].any()
    assert torch.equal(dropped.affinity[~missing], shown.affinity[~missing])


def test_link_dropout_shows_whole_windows_without_affinity_and_with_priors() -> None:
    shown, dropped = (next(world_source(replace(SETTINGS, link_dropout=p)).epoch(0)).pairs for p in (0.0, 0.5))
    assert shown is not None and dropped is not None
    assert torch.equal(dropped.priors, shown.priors)
    gone = (dropped.affinity != shown.affinity).flatten(1).any(1)
    assert gone.any() and not dropped.affinity[gone].any()
    assert torch.equal(dropped.affinity[~gone], shown.affinity[~gone]) and shown.affinity[~gone].any()


def test_history_dropout_shows_whole_windows_without_history_and_affinity() -> None:
    shown, dropped = (next(world_source(replace(SETTINGS, history_dropout=p)).epoch(0)).pairs for p in (0.0, 0.5))
    assert shown is not None and dropped is not None
    gone = dropped.history_mask.sum(1) == 0
    assert gone.any() and not gone.all() and (shown.history_mask.sum(1) > 0).all()
    assert not dropped.affinity[gone].any()
    assert torch.equal(dropped.priors, shown.priors)
    assert torch.equal(dropped.history_mask[~gone].sum(1), shown.history_mask[~gone].sum(1))
    for name, labels in shown.labels.items():
        assert torch.equal(dropped.labels[name].nan_to_num(-9.0), labels.nan_to_num(-9.0))


def test_a_batch_of_users_without_history_is_one_event_of_padding_wide() -> None:
    pairs = next(world_source(replace(SETTINGS, history_dropout=1.0)).epoch(0)).pairs
    assert pairs is not None
    assert pairs.history_mask.tolist() == [[0]] * len(pairs.history_mask)
    assert pairs.affinity.shape[2] == 1 and not pairs.affinity.any()


def test_without_links_no_pair_has_an_affinity() -> None:
    arrays = tiny_arrays()
    source = BatchSource(arrays, tokens_for(arrays), without_collaboration(arrays), SETTINGS, 8, seed=5)
    assert not any(batch.pairs.affinity.any() for batch in source.epoch(0) if batch.pairs is not None)


@pytest.mark.parametrize("fresh", [0, 1, SETTINGS.targets])
def test_as_large_a_share_of_the_negatives_is_fresh_as_of_the_targets(fresh: int) -> None:
    settings = replace(SETTINGS, fresh_targets=fresh, texts=1)
    for batch in world_source(settings).epoch(0):
        pairs = batch.pairs
        assert pairs is not None
        negatives = pairs.rows[pairs.candidates[0, settings.targets :]]
        drawn = negatives[: round(settings.negatives * fresh / settings.targets)]
        assert set(drawn.tolist()) <= set(batch.rows.tolist())
        targets = len(pairs.candidates) * fresh
        assert len(batch.rows) <= len(drawn) + targets + settings.texts  # and no more than that


def test_labels_of_targets_are_their_events() -> None:
    arrays = tiny_arrays()
    for batch in BatchSource(arrays, tokens_for(arrays), without_collaboration(arrays), SETTINGS, 8, seed=5).epoch(0):
        if batch.pairs is not None and batch.pairs.domain == "movies":
            rating, like = batch.pairs.labels["movies.rating"], batch.pairs.labels["movies.like"]
            exists = ~rating.isnan()
            assert torch.equal(like[exists], (rating[exists] >= 4.0).float())
            assert batch.pairs.counts["movies.rating"] == int(exists.sum())
            assert batch.pairs.positives["movies.like"] == int((rating[exists] >= 4.0).sum())


def test_a_student_reads_no_text_of_the_test_fold_in_pairs_either() -> None:
    arrays = world_arrays()
    source = world_source(every_text=True, settings=replace(SETTINGS, fresh_targets=2))
    items = len(arrays.item_ids)
    read = {int(row) for epoch in range(3) for batch in source.epoch(epoch) for row in batch.rows if row < items}
    assert read and not read & set(np.flatnonzero(arrays.item_fold == Fold.TEST).tolist())


def test_without_pairs_every_text_comes_once() -> None:
    source = world_source(with_pairs=False, every_text=True)
    arrays = world_arrays()
    rows = [int(row) for batch in source.epoch(0) for row in batch.rows]
    train = len(arrays.item_ids) + np.flatnonzero(arrays.text_fold == Fold.TRAIN)
    readable = np.flatnonzero(~arrays.cold & (arrays.item_fold != Fold.TEST))
    assert sorted(rows) == sorted([*readable.tolist(), *train.tolist()])


def test_no_step_holds_a_text_twice_however_few_there_are() -> None:
    source = world_source(replace(SETTINGS, texts=1000))
    for windows, texts in source._plan(0):
        assert windows and len(texts) == len(set(texts.tolist())) > 0
    assert distinct(np.array([3, 1, 3, 2, 1])).tolist() == [3, 1, 2]


def test_words_point_at_their_labels_and_first_tokens() -> None:
    arrays, tokens = world_arrays(), world_tokens()
    task = next(task for task in arrays.tasks if task.kind is Kind.TOKEN)
    labels = arrays.labels(task.name)
    checked = 0
    for batch in world_source().epoch(0):
        for bucket in batch.buckets:
            words = zip(bucket.word_text, bucket.word_position, bucket.word_row, bucket.word_number, strict=True)
            for found, (text, position, row, number) in zip(bucket.word_labels[task.name], words, strict=True):
                assert bucket.rows[text] == row and tokens.words[row][number] == position
                assert found == labels[int(row) - len(arrays.item_ids)][number]
                checked += 1
    assert checked


def test_a_batch_moves_to_a_device_whole() -> None:
    batch = next(world_source(with_company=True).epoch(0))
    assert contents([batch.to(torch.device("cpu"))]) == contents([batch])
    moved = batch.to(torch.device("meta"))
    assert moved.pairs is not None
    assert moved.company[0].target.is_meta
    assert moved.pairs.priors.is_meta and moved.buckets[0].input_ids.is_meta
    assert all(part.is_meta for pair in moved.text_labels.values() for part in pair)


def domains_of(source: BatchSource, epoch: int) -> Counter[str]:
    return Counter(batch.pairs.domain for batch in source.epoch(epoch) if batch.pairs is not None)


def test_a_temperature_moves_steps_between_domains_and_keeps_their_number() -> None:
    plain, even = world_source(), world_source(replace(SETTINGS, domain_temperature=1000.0))
    steps, moved = domains_of(plain, 0), domains_of(even, 0)
    assert moved.total() == steps.total() == even.steps(0)
    assert max(moved.values()) - min(moved.values()) <= 1 < max(steps.values()) - min(steps.values())
    assert contents(even.epoch(0)) == contents(even.epoch(0))


def test_texts_are_padded_to_a_multiple_and_to_no_more_than_the_longest_of_all() -> None:
    tokens = world_tokens()
    longest = int(tokens.lengths.max())
    assert longest % 5
    plain, padded = (next(world_source(SETTINGS, length_multiple=multiple).epoch(0)) for multiple in (1, 5))
    assert sorted(plain.rows.tolist()) == sorted(padded.rows.tolist())
    for bucket in padded.buckets:
        width = bucket.input_ids.shape[1]
        assert width == longest or width % 5 == 0
        assert bucket.attention_mask.sum(1).tolist() == tokens.lengths[bucket.rows.numpy()].tolist()
    assert any(bucket.input_ids.shape[1] % 5 for bucket in plain.buckets)
