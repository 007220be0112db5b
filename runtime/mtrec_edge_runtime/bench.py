"""Measure bundles on this device by the protocol of benchmarks/README.md; numpy and onnxruntime are enough.

Every cell runs in a fresh process (`bench_cell.py`), repeated; the repeat with the middle p50 is reported. Returns a
result (`results.py`) whose raw samples may be written beside it. Knows nothing of the command line.
"""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtrec_edge_runtime.bench_cell import Cell, cell_to_json
from mtrec_edge_runtime.bench_plan import Protocol, describe, plan_cells
from mtrec_edge_runtime.catalogue import Catalogue
from mtrec_edge_runtime.errors import InputError, StageError
from mtrec_edge_runtime.integrity import hash_file
from mtrec_edge_runtime.manifest import Manifest, read_manifest
from mtrec_edge_runtime.own_core import fastest_pace, own_core
from mtrec_edge_runtime.results import DatasetInfo, Result, new_result, write_result, write_samples
from mtrec_edge_runtime.timing import summarize

REPEATS = "repeats"  # of a cell while the run lasts: the samples of each process

COLD_START = """
import sys, time
begun = time.monotonic_ns()
spawned, bundle, profile, item, task = int(sys.argv[1]), *sys.argv[2:]
from mtrec_edge_runtime.recommender import Recommender
imported = time.monotonic_ns()
recommender = Recommender(bundle, profile=profile)
loaded = time.monotonic_ns()
recommender.rank([item], task=task, k=10)
scored = time.monotonic_ns()
print(begun - spawned, imported - begun, loaded - imported, scored - loaded)
"""


def bench(
    bundles: Sequence[Path],
    *,
    against: Sequence[Path] = (),
    protocol: Protocol | None = None,
    command: Sequence[str] = ("mtrec_edge_runtime.bench",),
    tell: Callable[[str], None] = lambda line: None,
) -> Result:
    """Measure bundles, and other ONNX encoders beside them, and return the result with its raw samples inside.

    `against` are ONNX files that take `input_ids` and `attention_mask` (other inputs get zeros) of a vocabulary at
    least as large; they run interleaved with each bundle. `tell` gets a line before each cell. Raises StageError when
    a cell's process fails.
    """
    if not bundles:
        raise InputError("nothing to measure: give the folder of at least one bundle")
    for path in against:
        if not path.is_file():
            raise InputError(f"against {path}: no such file; give an ONNX encoder, e.g. encoder.fp32.onnx")
    protocol = protocol or Protocol()
    manifests = {bundle: read_manifest(bundle) for bundle in bundles}
    result = new_result("bench", command=command, seeds=[0], dataset=_dataset(list(manifests.values())))
    names = told_apart({bundle: manifest.name for bundle, manifest in manifests.items()})
    others = told_apart({path: path.name for path in against})
    result["bundles"] = [_about(bundle, manifest) | {"name": names[bundle]} for bundle, manifest in manifests.items()]
    cells: list[dict[str, Any]] = []
    for bundle, manifest in manifests.items():
        for cell in plan_cells(bundle, manifest, against=against, protocol=protocol):
            tell(describe(cell))
            beside = {"against": others[Path(cell.against)]} if cell.against else {}
            cells.append(_measure(cell, protocol) | beside | {"name": names[bundle]})
        if start := _first_request(bundle, manifest):
            for profile in manifest.profiles:
                tell(f"{names[bundle]}: cold start, {profile}")
                cells.append(_cold_start(bundle, profile, start, protocol.starts) | {"name": names[bundle]})
    _add_own_core(cells)
    result["cells"] = cells
    return result


def told_apart(names: Mapping[Path, str]) -> dict[Path, str]:
    """Return what bundles or files are called in the result: their names, where several share one with the path."""
    shared = Counter(names.values())
    return {path: name if shared[name] == 1 else f"{name} ({path})" for path, name in names.items()}


def write_bench(path: Path, result: Result) -> None:
    """Write a result to `path`, named after the file, and its raw samples to `NAME.samples.json.gz` when small."""
    samples = [cell.pop("samples", {}) for cell in result["cells"]]  # of cell i: phase -> milliseconds
    result["samples"] = write_samples(path, samples)
    result["name"] = path.stem
    write_result(path, result)


def _measure(cell: Cell, protocol: Protocol) -> dict[str, Any]:
    """Measure a cell until its repeats agree, at most twice, and return the repeat with the middle p50."""
    about = {key: getattr(cell, key) for key in ("kind", "profile", "threads", "batch", "tokens", "domain")}
    if cell.kind == "memory":
        return about | _run_cell(cell)
    repeats = [_run_cell(cell) for _ in range(protocol.repeats)]
    if _noisy(cell, repeats, protocol):
        repeats = [_run_cell(cell) for _ in range(protocol.repeats)]
    chosen = sorted(repeats, key=_p50)[len(repeats) // 2]
    p50s = [_p50(repeat) for repeat in repeats]
    noisy = _noisy(cell, repeats, protocol)
    return about | chosen | {"p50_repeats": p50s, "noisy": noisy, REPEATS: [repeat["samples"] for repeat in repeats]}


def _add_own_core(cells: Sequence[dict[str, Any]]) -> None:
    """Put, in place of the samples of all repeats, what the cells took at the pace of the run's fastest moments."""
    timed = [cell for cell in cells if REPEATS in cell]
    fastest = fastest_pace([repeat for cell in timed for repeat in cell[REPEATS]])
    for cell in timed:
        cell["own_core"] = own_core(cell.pop(REPEATS), fastest) | {"fastest_pace_ms": round(fastest, 5)}


def _noisy(cell: Cell, repeats: Sequence[dict[str, Any]], protocol: Protocol) -> bool:
    p50s = [_p50(repeat) for repeat in repeats]
    starved = cell.threads == 1 and min(repeat["cpu_share"] for repeat in repeats) < protocol.cpu_share
    return starved or max(p50s) > min(p50s) * (1 + protocol.spread)


def _p50(measured: dict[str, Any]) -> float:
    """Return the p50 of the phase that stands for the cell: the whole call where there is one, else the first."""
    phases = measured["phases"]
    return float(phases.get("total", next(iter(phases.values())))["p50"])


def _run_cell(cell: Cell) -> dict[str, Any]:
    found = json.loads(_run([sys.executable, "-m", "mtrec_edge_runtime.bench_cell"], cell_to_json(cell)))
    assert isinstance(found, dict)
    return found


def _cold_start(bundle: Path, profile: str, request: tuple[str, str], starts: int) -> dict[str, Any]:
    """Start `starts` processes and return each phase's samples up to the first ranking.

    One more goes before, untimed: after it files are in the page cache and modules are compiled, as an installer leaves
    them. Many an environment for development forbids the latter (PYTHONDONTWRITEBYTECODE).
    """
    rows = []
    for _ in range(1 + starts):
        arguments = [str(bundle), profile, *request]
        out = _run([sys.executable, "-c", COLD_START, str(time.monotonic_ns()), *arguments], "")
        rows.append([int(part) / 1e6 for part in out.split()])
    table = np.array(rows[1:])  # (starts, phases)
    columns = dict(zip(("process", "import", "load", "first_score"), table.T, strict=True))
    columns |= {"import_to_score": table[:, 1:].sum(axis=1), "total": table.sum(axis=1)}
    phases = {name: summarize(column) for name, column in columns.items()}
    samples = {name: column.tolist() for name, column in columns.items()}
    return {"kind": "cold_start", "profile": profile, "threads": 1, "phases": phases, "samples": samples}


def _run(command: Sequence[str], text: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise StageError(f"bench: a measuring process ended with {done.returncode}: {last[0]}; run it again alone")
    return done.stdout


def _first_request(bundle: Path, manifest: Manifest) -> tuple[str, str] | None:
    """Return (item id, task) to rank by in a cold start; None when no task scores pairs."""
    tasks = [task for task in manifest.tasks if task.pairwise and task.domain in manifest.domains]
    if not tasks:
        return None
    catalogue = Catalogue(bundle, manifest.domains, vector_size=manifest.input.vector_size)
    return catalogue.ids(tasks[0].domain)[0], tasks[0].name


def _about(bundle: Path, manifest: Manifest) -> dict[str, Any]:
    size = sum(entry.size for entry in manifest.files.values())
    return {
        "manifest_sha256": hash_file(bundle / "manifest.json").sha256,
        "size_bytes": size + (bundle / "manifest.json").stat().st_size,
        "certified": manifest.certified,
        "items": {domain: end - start for domain, (start, end) in manifest.domains.items()},
        "quality": {task: dict(metrics) for task, metrics in manifest.quality.items()},
    }


def _dataset(manifests: Sequence[Manifest]) -> DatasetInfo:
    names = [str(manifest.data.get("name", manifest.name)) for manifest in manifests]
    hashes = [str(manifest.data.get("split_hash", "")) for manifest in manifests]
    counts = {domain: end - start for manifest in manifests for domain, (start, end) in manifest.domains.items()}
    return DatasetInfo(name=" + ".join(names), split_hash=" ".join(hashes), counts=counts)
