"""`golden.json`: strings -> token ids -> vectors -> scores, by which a bundle proves itself on any machine.

Writes the file through an open bundle, reads it and compares. Numbers are those of profile `exact`: text outputs as
the text heads give them (logits), scores as `Recommender.score` gives them (clipped, or probability), orders as
`Recommender.order` gives them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrec_edge_runtime.errors import BundleError, InputError
from mtrec_edge_runtime.history import Event, HistoryEntry
from mtrec_edge_runtime.integrity import read_bounded
from mtrec_edge_runtime.recommender import Recommender

MAX_GOLDEN_BYTES = 8 << 20
TOLERANCE = 1e-3
FAST_COSINE = 0.98


def write_golden(
    folder: str | Path,
    texts: Sequence[str],
    *,
    ranks: Sequence[tuple[str, Sequence[HistoryEntry], Sequence[str]]],
    fast_cosine: float = FAST_COSINE,
) -> None:
    """Write `golden.json` of the bundle in `folder`, which must hold its manifest and profile `exact`.

    `ranks`: (domain, history oldest first, candidate ids). `fast_cosine`: what profile `fast` must reach in the mean.
    Call `write_manifest` again afterwards, so that the file is hashed.
    """
    exact = Recommender(folder, profile="exact", verify=False)
    table = {
        "texts": [_text_row(exact, text) for text in texts],
        "ranks": [_rank_row(exact, domain, history, candidates) for domain, history, candidates in ranks],
        "fast_cosine": fast_cosine,
    }
    (Path(folder) / "golden.json").write_text(json.dumps(table, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def check_golden(path: str | Path) -> list[str]:
    """Run the bundle at `path` on its golden examples; return what differs, one line each, none when all is well.

    Raises BundleError when the bundle or its golden.json cannot be read.
    """
    folder = Path(path)
    exact = Recommender(folder, profile="exact")
    if "golden.json" not in exact.manifest.files:
        raise BundleError(f"{folder}: the manifest lists no golden.json; the bundle is incomplete, get it again")
    data = read_bounded(folder / "golden.json", MAX_GOLDEN_BYTES)
    try:
        table = json.loads(data)
        if not table["texts"]:
            raise BundleError(f"{folder}/golden.json holds no text: it proves nothing; get the bundle again")
        failures = [line for row in table["texts"] for line in _check_text(exact, row)]
        failures += [line for row in table["ranks"] for line in _check_rank(exact, row)]
        return failures or _check_fast(exact, folder, table)
    except (LookupError, ArithmeticError, TypeError, ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, InputError):
            raise BundleError(f"{folder}/golden.json does not fit this bundle: {error}") from error
        raise BundleError(f"{folder}/golden.json is not as docs/bundle-format.md says: {error!r}") from error


def fast_cosine(folder: Path, texts: Sequence[str], golden: NDArray[Any]) -> float:
    """Return the mean cosine of profile `fast`'s vectors of `texts`, on this machine, with `golden` (texts, D)."""
    vectors = Recommender(folder, verify=False).encode(texts)
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(golden, axis=1)
    return float(np.mean(np.sum(vectors * golden, axis=1) / np.maximum(norms, 1e-12)))


def _text_row(exact: Recommender, text: str) -> dict[str, Any]:
    ids = exact.encoder.tokenizer.encode(text, max_tokens=exact.manifest.input.max_tokens)
    outputs = [task.name for task in exact.manifest.tasks if not task.pairwise]
    return {
        "text": text,
        "input_ids": ids,
        "vector": _rounded(exact.encoder.run([ids], "vector")[0]),
        "outputs": {name: _rounded(exact.encoder.run([ids], name)[0]) for name in outputs},
    }


def _rank_row(
    exact: Recommender, domain: str, history: Sequence[HistoryEntry], candidates: Sequence[str]
) -> dict[str, Any]:
    scores = exact.score(history, candidates, domain=domain)
    return {
        "domain": domain,
        "history": [_event_row(entry, domain) for entry in history],
        "candidates": list(candidates),
        "scores": {name: _rounded(values) for name, values in scores.items()},
        "orders": {
            name: _rounded(exact.order(history, candidates, task=name)) for name in scores if exact.tasks[name].ranks
        },
    }


def _event_row(entry: HistoryEntry, domain: str) -> dict[str, Any]:
    event = Event(entry) if isinstance(entry, str) else entry
    what = (
        {"text": event.text if isinstance(event.text, str) else event.text.text} if event.text else {"item": event.item}
    )
    return what | {"domain": event.domain or domain, "behaviour": event.behaviour, "value": event.value}


def _check_text(exact: Recommender, row: Mapping[str, Any]) -> list[str]:
    found = _text_row(exact, row["text"])
    if found["input_ids"] != row["input_ids"]:
        return [f"text {row['text']!r:.60}: token ids {found['input_ids']}, golden {row['input_ids']}"]
    failures = _differences(f"vector of {row['text']!r:.60}", found["vector"], row["vector"])
    if found["outputs"].keys() != row["outputs"].keys():
        return [f"text {row['text']!r:.60}: outputs {list(found['outputs'])}, golden {list(row['outputs'])}"]
    for name, values in row["outputs"].items():
        failures += _differences(f"{name} of {row['text']!r:.60}", found["outputs"][name], values)
    return failures


def _check_rank(exact: Recommender, row: Mapping[str, Any]) -> list[str]:
    history = [Event(e.get("item"), e.get("text"), e["domain"], e["behaviour"], e["value"]) for e in row["history"]]
    tasks = list(row["scores"])
    found = exact.score(history, row["candidates"], domain=row["domain"], tasks=tasks)
    lines = [line for name in tasks for line in _differences(f"score {name}", found[name], row["scores"][name])]
    for name, golden in row["orders"].items():
        lines += _differences(f"order {name}", exact.order(history, row["candidates"], task=name), golden)
    return lines


def _check_fast(exact: Recommender, folder: Path, table: Mapping[str, Any]) -> list[str]:
    """Compare profile `fast`, when there is one, with the golden vectors by mean cosine."""
    if "fast_cosine" not in table or "fast" not in exact.manifest.profiles:
        return []
    texts, golden = zip(*((row["text"], row["vector"]) for row in table["texts"]), strict=True)
    cosine = fast_cosine(folder, texts, np.array(golden))
    if cosine >= table["fast_cosine"]:
        return []
    return [f"profile fast: mean cosine {cosine:.4f} with the golden vectors, at least {table['fast_cosine']} asked"]


def _differences(what: str, found: Any, golden: Any) -> list[str]:
    a, b = np.asarray(found, float), np.asarray(golden, float)
    if a.shape != b.shape:
        return [f"{what}: shape {a.shape}, golden {b.shape}"]
    worst = float(np.abs(a - b).max(initial=0.0))
    return [] if worst <= TOLERANCE else [f"{what}: differs by {worst:.2g}, at most {TOLERANCE} allowed"]


def _rounded(values: Any) -> Any:
    return np.asarray(values, np.float64).round(6).tolist()
