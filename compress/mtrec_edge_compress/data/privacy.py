"""Make a dataset impersonal: personal data out of texts, HMAC pseudonyms for users, and the key the user keeps."""

import hashlib
import hmac
import json
import os
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from mtrec_edge_compress.data.personal_data import find_personal_data
from mtrec_edge_compress.data.schema import Dataset
from mtrec_edge_runtime.errors import DataError

KEY_BYTES = 32
PSEUDONYM_CHARACTERS = 20  # 80 bits: two of a billion users collide with probability 4e-7


@dataclass(frozen=True)
class Scrubbed:
    """A dataset without personal data in its texts, and how many finds of each kind were replaced."""

    dataset: Dataset
    replaced: dict[str, int]


def scrub(dataset: Dataset) -> Scrubbed:
    """Replace personal data in titles, descriptions, tags, texts and tokens by neutral words such as "email"."""
    counts: Counter[str] = Counter()
    items, texts = dataset.items, dataset.texts
    items = items.with_columns(
        _scrub_column(items["title"], counts),
        _scrub_column(items["description"], counts),
        pl.Series("tags", [[scrub_text(t, counts) for t in row] for row in items["tags"]], dtype=pl.List(pl.String)),
    )
    tokens = [scrub_tokens(row, counts) for row in texts["tokens"].to_list()]
    plain = [
        " ".join(words) if words else scrub_text(text, counts)
        for words, text in zip(tokens, texts["text"].to_list(), strict=True)
    ]
    texts = texts.with_columns(
        pl.Series("tokens", tokens, dtype=pl.List(pl.String)), pl.Series("text", plain, dtype=pl.String)
    )
    return Scrubbed(replace(dataset, items=items, texts=texts), dict(counts))


def scrub_text(text: str, counts: Counter[str]) -> str:
    """Return the text with neutral words in place of personal data, and add the finds to `counts`."""
    while finds := find_personal_data(text):  # again, for what only shows once its neighbour is replaced
        for find in reversed(finds):
            text = text[: find.start] + find.replacement + text[find.end :]
            counts[find.kind] += 1
    return text


def scrub_tokens(tokens: Sequence[str], counts: Counter[str]) -> list[str]:
    """Return as many tokens as came in, each one that a find touches replaced by the find's neutral word."""
    scrubbed = list(tokens)
    for find in find_personal_data(" ".join(tokens)):
        counts[find.kind] += 1
        start = 0
        for place, token in enumerate(tokens):
            if start < find.end and start + len(token) > find.start:
                scrubbed[place] = find.kind.value
            start += len(token) + 1
    return scrubbed


def pseudonymise(dataset: Dataset, key: bytes) -> Dataset:
    """Replace user ids by HMAC-SHA-256 pseudonyms.

    The name of the dataset enters the pseudonym: one person in two datasets of one name stays one person, equal ids
    in datasets of different names do not become one.
    """
    users = dataset.events["user_id"].unique(maintain_order=True)
    table = pl.DataFrame({"user_id": users, "pseudonym": [pseudonym(dataset.name, user, key) for user in users]})
    table = table.cast({"pseudonym": pl.String})
    events = dataset.events.join(table, on="user_id", how="left", maintain_order="left")
    columns = dataset.events.columns
    return replace(dataset, events=events.drop("user_id").rename({"pseudonym": "user_id"}).select(columns))


def pseudonym(name: str, user: str, key: bytes) -> str:
    """Return the pseudonym of a user of the source of that name."""
    message = json.dumps([name, user]).encode()
    return hmac.new(key, message, hashlib.sha256).hexdigest()[:PSEUDONYM_CHARACTERS]


def load_key(path: Path) -> bytes:
    """Return the HMAC key in a file (hexadecimal); make the file, readable by its owner alone, when there is none."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        key = secrets.token_bytes(KEY_BYTES)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(key.hex() + "\n")
        return key
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii"))
    except IsADirectoryError as error:
        raise DataError(f"key file {path} is a folder: name a file in it, e.g. {path / 'users.key'}") from error
    except ValueError as error:
        raise DataError(f"key file {path}: expected hexadecimal digits ({error}): name another file") from error
    if len(key) < KEY_BYTES:
        raise DataError(f"key file {path}: {len(key)} bytes found, a key has {KEY_BYTES}: name another file")
    return key


def _scrub_column(column: pl.Series, counts: Counter[str]) -> pl.Series:
    return pl.Series(column.name, [scrub_text(text, counts) for text in column.to_list()], dtype=pl.String)
