"""`bundle`: graphs, vocabulary, catalogue, golden answers, manifest -> one folder, checked before it is put in place.

Everything is written into a folder beside `out`; only when the runtime has opened it and reproduced the golden answers
does it take `out`'s place. Until then an older bundle stays what it was. docs/bundle-format.md describes each file.
"""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from mtrec_edge_compress.budget import size_reasons
from mtrec_edge_compress.data.arrays import Arrays, FloatArray
from mtrec_edge_compress.encoder_graph import text_heads_in
from mtrec_edge_compress.export import RANKER
from mtrec_edge_compress.golden import add_golden
from mtrec_edge_compress.model import ranker_outputs
from mtrec_edge_compress.onnx_graph import IR_VERSION, OPSET
from mtrec_edge_compress.quantize import ENCODER_EXACT, ENCODER_FAST, ENCODER_WEIGHTS
from mtrec_edge_compress.saturation import check_saturation
from mtrec_edge_compress.verify import Verdict
from mtrec_edge_runtime._version import __version__
from mtrec_edge_runtime.catalogue import write_catalogue
from mtrec_edge_runtime.errors import BundleError, StageError
from mtrec_edge_runtime.golden import check_golden
from mtrec_edge_runtime.manifest import InputContract, Manifest, Onnx, read_manifest, write_manifest
from mtrec_edge_runtime.neighbours import Neighbours, write_neighbours
from mtrec_edge_runtime.tasks import Task

GRAPH_FILES = (ENCODER_FAST, ENCODER_EXACT, ENCODER_WEIGHTS, RANKER)


@dataclass(frozen=True)
class Card:
    """What a bundle says of itself besides what its files tell."""

    name: str
    seed: int
    max_tokens: int
    max_history: int
    no_history: bool  # whether it was trained on users without one
    catalogue: Literal["teacher", "student"]  # which encoder made the item vectors
    stages: tuple[Mapping[str, Any], ...]  # the stage ledger
    quality: Mapping[str, Mapping[str, float]]  # task -> metric -> value of the shipped `fast` profile


def write_bundle(
    out: Path,
    *,
    graphs: Path,
    vocabulary: Path,
    arrays: Arrays,
    vectors: FloatArray,
    neighbours: Neighbours,
    temperatures: Mapping[str, float],
    card: Card,
    verdict: Verdict,
    max_mb: float = 0.0,
) -> Manifest:
    """Write a bundle to `out` and return its manifest.

    Args:
        out: the folder to make; a bundle that is there is replaced, anything else is refused.
        graphs: folder that `quantize` wrote.
        vocabulary: the student's `vocab.txt`.
        arrays: the dataset: tasks, items, behaviours, priors.
        vectors: item vectors (items, D) in catalogue order; stored as INT8 with a scale a row.
        neighbours: what users did together.
        temperatures: binary task -> temperature of its probability; 1 for a task that is not there.
        card: the rest of the manifest.
        verdict: what was found of the model; a bundle that is not certified says so.
        max_mb: the budget of all files but the catalogue, in million bytes; 0: none. Above it is not certified.

    Raises:
        StageError: `out` holds something that is not a bundle, or the new bundle does not answer as it should.
    """
    refuse_foreign(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as place:
        staged = Path(place) / "new"
        staged.mkdir()
        for path in (*(graphs / name for name in GRAPH_FILES), *text_heads_in(graphs)):
            shutil.copyfile(path, staged / path.name)
        shutil.copyfile(vocabulary, staged / "vocab.txt")
        write_catalogue(staged, arrays.item_ids, vectors=vectors, priors=arrays.priors)
        write_neighbours(staged, neighbours)
        tasks = tuple(
            replace(task.device_task(), temperature=temperatures.get(task.name, 1.0)) for task in arrays.tasks
        )
        onnx = Onnx(OPSET, IR_VERSION, safe_without_vnni=check_saturation(staged / ENCODER_FAST).safe)
        draft = _draft(arrays, tasks, card, verdict, onnx, vector_size=vectors.shape[1])
        write_manifest(staged, draft)  # the golden answers are the opened bundle's own
        add_golden(staged, arrays)
        write_manifest(staged, draft)
        if too_large := size_reasons(max_mb, device_bytes(staged)):
            draft = replace(draft, certified=False, reasons=(*verdict.reasons, *too_large))
        manifest = write_manifest(staged, draft)
        self_test(staged)
        _swap(staged, out, aside=Path(place) / "old")
    return manifest


def device_bytes(bundle: Path) -> int:
    """Return the bytes of all files of a bundle but its catalogue: graphs, weights, vocabulary, golden, manifest."""
    return sum(path.stat().st_size for path in bundle.iterdir() if path.is_file())


def refuse_foreign(out: Path) -> None:
    """Refuse to replace anything but a bundle or an empty folder."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        read_manifest(out, verify=False)
    except BundleError as error:
        raise StageError(
            f"bundle: {out} is there and is no bundle ({error}); the next step: choose another --out, or move it away"
        ) from error


def _draft(
    arrays: Arrays, tasks: tuple[Task, ...], card: Card, verdict: Verdict, onnx: Onnx, *, vector_size: int
) -> Manifest:
    data = arrays.dataset
    return Manifest(
        name=card.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        tool={"name": "mtrec-edge", "version": __version__},
        tasks=tasks,
        outputs=ranker_outputs(data.tasks),
        input=InputContract(card.max_tokens, card.max_history, vector_size, arrays.behaviours, card.no_history),
        domains={domain: (rows.start, rows.stop) for domain, rows in arrays.domains.items()},
        profiles={"fast": ENCODER_FAST, "exact": ENCODER_EXACT},
        onnx=onnx,
        catalogue=card.catalogue,
        stages=card.stages,
        quality=card.quality,
        certified=verdict.certified,
        reasons=verdict.reasons,
        data={
            "name": data.name,
            "split_hash": data.split_hash,
            "seed": card.seed,
            "licence": data.licence,
            "notes": list(data.notes),
        },
    )


def self_test(staged: Path) -> None:
    """Raise StageError unless every file is what the manifest says and the golden answers are reproduced."""
    try:
        failures = check_golden(staged)
    except BundleError as error:
        failures = [str(error)]
    if failures:
        raise StageError(f"bundle: it fails its own test, nothing was replaced: {'; '.join(failures)}")


def _swap(staged: Path, out: Path, *, aside: Path) -> None:
    """Put the staged folder in place of `out`; put the old one back if that fails."""
    if not out.exists():
        staged.rename(out)
        return
    out.rename(aside)
    try:
        staged.rename(out)
    except OSError:
        aside.rename(out)
        raise
