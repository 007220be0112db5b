"""Result files: the schema of every JSON under `benchmarks/results/`, written and checked in this one place.

A published figure is read from such a file. The schema is the TypedDicts below; `check_result` refuses a file that
breaks it, naming the field. Knows nothing of how a figure was measured.
"""

import gzip
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from mtrec_edge_runtime.errors import InputError
from mtrec_edge_runtime.machine import Machine, current_commit, describe_machine, utc_now
from mtrec_edge_runtime.whole_file import write_whole

STAGES = ("teacher", "student", "pruned", "healed", "onnx_fp32", "int8_fast", "int8_exact", "untaught")


class DatasetInfo(TypedDict):
    """What was measured on."""

    name: str
    split_hash: str
    counts: dict[str, int]  # users, items, events ... as the protocol used them


class StageResult(TypedDict):
    """One stage of the chain; a field that was not measured is absent."""

    tasks: dict[str, dict[str, float]]  # task -> metric -> value
    size_bytes: NotRequired[int]
    parameters: NotRequired[int]
    seconds: NotRequired[float]
    latency_ms: NotRequired[dict[str, dict[str, float]]]  # tokens -> {p50, p95}


class Kept(TypedDict):
    """What a student keeps of its teacher's headline metrics above chance; without tasks there is no mean."""

    tasks: dict[str, float]  # task -> share
    mean: NotRequired[float]
    worst: NotRequired[float]
    intervals: NotRequired[dict[str, list[float]]]  # task -> 95 % bounds of its share, users or texts drawn anew
    mean_interval: NotRequired[list[float]]


class TierResult(TypedDict):
    """One of several students of one teacher: profile `fast`, beside the teacher and BERT-base in FP32."""

    size_bytes: int  # all files of the bundle but the catalogue
    size_ratio: float  # BERT-base's FP32 graph against them
    latency_ratio: float  # paired medians of one text, BERT-base against the student
    latency_ratio_low: NotRequired[float]  # its 95 % interval
    latency_ratio_high: NotRequired[float]
    retention_mean: NotRequired[float]  # those of `unseen`
    retention_worst: NotRequired[float]
    seen: Kept  # known items, the catalogue by the teacher
    unseen: Kept  # strict cold items and held-out texts, by the student's own encoder
    untaught: NotRequired[Kept]  # the same on unseen texts, by the same shape trained without the teacher
    certified: bool
    reasons: list[str]
    bytes: dict[str, int]  # of encoder and text heads by component
    latency_ms: dict[str, dict[str, float]]  # tokens -> {p50, p95}


class Measured(TypedDict):
    """A value with the bounds of its 95 % bootstrap interval."""

    value: float
    low: NotRequired[float]
    high: NotRequired[float]
    p: NotRequired[float]  # of a difference: two-sided, adjusted by Holm


class Result(TypedDict):
    """One result file. It compares `stages` of one run, `tiers` of one teacher, `systems`, or latencies as `cells`."""

    name: str  # what was run; also the file's name
    created: str  # UTC, ISO 8601
    commit: str
    command: str
    machine: Machine
    seeds: list[int]
    dataset: DatasetInfo
    stages: NotRequired[dict[str, StageResult]]
    seconds: NotRequired[dict[str, float]]  # stage of the run, also those that make no model -> wall-clock time
    retention: NotRequired[dict[str, dict[str, float]]]  # stage -> task -> share of the teacher's metric kept
    headlines: NotRequired[dict[str, str]]  # task -> the metric that stands for it in tables
    tiers: NotRequired[dict[str, TierResult]]
    systems: NotRequired[dict[str, dict[str, Measured]]]  # system -> "task metric" -> value with interval
    cells: NotRequired[list[dict[str, Any]]]  # bench.py: one measured cell each
    bundles: NotRequired[list[dict[str, Any]]]  # bench.py: name, hash, size, quality of each measured bundle
    samples: NotRequired[str]  # compressed file of raw values beside this one
    notes: NotRequired[list[str]]  # what a reader must know


def new_result(name: str, *, command: Sequence[str], seeds: Sequence[int], dataset: DatasetInfo) -> Result:
    """Return a result with its time, commit and machine filled in, ready for what was measured."""
    return Result(
        name=name,
        created=utc_now(),
        commit=current_commit(),
        command=shlex.join(command),
        machine=describe_machine(),
        seeds=list(seeds),
        dataset=dataset,
    )


def write_result(path: Path, result: Result) -> None:
    """Check a result and write it to `path`, whole or not at all."""
    check_result(cast(Mapping[str, Any], result), origin=str(path))
    write_whole(path, json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_samples(path: Path, samples: object) -> str:
    """Write the raw values behind the result file `path` beside it; return that file's name, its field `samples`."""
    packed = gzip.compress(json.dumps(samples, allow_nan=False).encode(), mtime=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.stem + ".samples.json.gz")
    beside.write_bytes(packed)
    return beside.name


def read_result(path: Path) -> Result:
    """Read and check a result file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"result file {path} does not exist: run the benchmark that writes it") from error
    except ValueError as error:
        raise InputError(f"result file {path} is not JSON ({error}): restore or measure it again") from error
    if not isinstance(content, dict):
        raise InputError(f"result file {path} holds a {type(content).__name__}, not an object: measure it again")
    check_result(content, origin=str(path))
    return cast(Result, content)


def check_result(result: Mapping[str, Any], *, origin: str = "result") -> None:
    """Raise InputError when a result lacks a required field, has an unknown one, or holds a value that is no number."""
    missing = sorted(Result.__required_keys__ - result.keys())
    unknown = sorted(result.keys() - Result.__required_keys__ - Result.__optional_keys__)
    if missing or unknown:
        known = ", ".join(sorted(Result.__required_keys__ | Result.__optional_keys__))
        raise InputError(f"{origin}: missing {missing}, unknown {unknown}; the fields are {known}")
    _check_fields(result["machine"], Machine.__required_keys__, f"{origin}: machine")
    _check_fields(result["dataset"], DatasetInfo.__required_keys__, f"{origin}: dataset")
    for stage, measured in result.get("stages", {}).items():
        if stage not in STAGES:
            raise InputError(f"{origin}: stages: unknown stage {stage!r}; the stages are {', '.join(STAGES)}")
        _check_fields(measured, StageResult.__required_keys__, f"{origin}: stages: {stage}")
    for tier, measured in result.get("tiers", {}).items():
        _check_fields(measured, TierResult.__required_keys__, f"{origin}: tiers: {tier}")
    if not {"stages", "tiers", "systems", "cells"} & result.keys():
        raise InputError(f"{origin}: nothing was measured: one of stages, tiers, systems or cells is needed")
    for section in ("stages", "seconds", "retention", "tiers", "systems", "cells"):
        _check_numbers(result.get(section, {}), f"{origin}: {section}")


def _check_fields(part: object, required: frozenset[str], where: str) -> None:
    if not isinstance(part, Mapping):
        raise InputError(f"{where}: expected an object with {sorted(required)}, found {type(part).__name__}")
    missing = sorted(required - part.keys())
    if missing:
        raise InputError(f"{where}: missing {missing}; fill them in where the figure is measured")


def _check_numbers(part: object, where: str) -> None:
    if isinstance(part, Mapping):
        for key, value in part.items():
            _check_numbers(value, f"{where}: {key}")
    elif isinstance(part, list):
        for index, value in enumerate(part):
            _check_numbers(value, f"{where}[{index}]")
    elif isinstance(part, float) and not math.isfinite(part):
        raise InputError(f"{where}: {part} is not a figure; leave out what could not be measured")
