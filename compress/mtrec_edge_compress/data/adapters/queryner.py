"""QueryNER: product queries with one BIO label a word, in the official train, validation and test parts.

Reads label_map.json and train.json, validation.json, test.json: `{"examples": [{"tokens": [...], "ner_tags": [...]}]}`.
"""

import json
from pathlib import Path
from typing import Any

import polars as pl

from mtrec_edge_compress.data.adapters.source_files import require_files
from mtrec_edge_compress.data.schema import EVENT_COLUMNS, ITEM_COLUMNS, TEXT_COLUMNS, Dataset, Fold, TaskSpec
from mtrec_edge_compress.data.tables import conform, empty
from mtrec_edge_runtime.errors import DataError
from mtrec_edge_runtime.tasks import Kind

PARTS = {"train.json": Fold.TRAIN, "validation.json": Fold.VALIDATION, "test.json": Fold.TEST}


def read_queryner(source: Path) -> Dataset:
    """Read domain `queries`: the token task queries.tags, with the official folds."""
    require_files(source, [*PARTS, "label_map.json"], adapter="queryner")
    numbered = _read_json(source / "label_map.json")
    if set(numbered) != {str(number) for number in range(len(numbered))}:
        raise DataError(f"{source / 'label_map.json'}: expected labels numbered from 0, found {list(numbered)[:5]}")
    labels = [str(numbered[str(number)]) for number in range(len(numbered))]
    rows = [row for name, fold in PARTS.items() for row in _examples(source / name, fold, labels)]
    return Dataset(
        name="queryner",
        items=empty(ITEM_COLUMNS),
        events=empty(EVENT_COLUMNS),
        texts=conform(pl.DataFrame(rows), TEXT_COLUMNS, labels=["tags"]),
        tasks=(TaskSpec("queries.tags", Kind.TOKEN, "texts", column="tags", labels=tuple(labels)),),
        licence="QueryNER: MIT (annotations), Apache-2.0 (queries)",
        notes=("queries: official train, validation and test parts",),
    )


def _examples(path: Path, fold: Fold, labels: list[str]) -> list[dict[str, Any]]:
    rows = []
    for number, example in enumerate(_read_json(path).get("examples", [])):
        tokens, tags = example.get("tokens", []), example.get("ner_tags", [])
        if len(tokens) != len(tags) or any(not 0 <= tag < len(labels) for tag in tags):
            raise DataError(
                f"{path}, column ner_tags, row {number}: {len(tokens)} tokens, tags {tags}: expected one number "
                f"under {len(labels)} a token: fetch the file again"
            )
        rows.append(
            {
                "text_id": f"{path.stem}-{number}",
                "domain": "queries",
                "text": " ".join(tokens),
                "tokens": tokens,
                "fold": int(fold),
                "tags": [labels[tag] for tag in tags],
            }
        )
    return rows


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}): fetch it again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}, not an object: fetch it again")
    return content
