"""`manifest.json`: what is inside a bundle. The one definition for the toolkit that writes it and the device.

Reads and writes `manifest.json` alone; sizes and hashes of the other files come from `integrity`. Knows nothing of
ONNX Runtime. docs/bundle-format.md describes every field.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mtrec_edge_runtime.errors import BundleError, InputError
from mtrec_edge_runtime.integrity import FileEntry, check_files, check_name, hash_folder, read_bounded
from mtrec_edge_runtime.tasks import ORDER, Kind, Task
from mtrec_edge_runtime.whole_file import write_whole

FORMAT = 6
MAX_MANIFEST_BYTES = 4 << 20

TEXT_HEADS = "text_heads.onnx"  # where there are text tasks
REQUIRED = (
    "encoder.bin",
    "ranker.onnx",
    "vocab.txt",
    "catalogue/ids.bin",
    *(f"catalogue/{name}.npy" for name in ("lengths", "vectors", "scales", "priors")),
    *(f"catalogue/neighbour_{name}.npy" for name in ("counts", "items", "codes", "scales")),
)

Profile = Literal["fast", "exact"]


@dataclass(frozen=True)
class Behaviour:
    """What a user may do with an item of a domain; a value is normalised as `(value - mean) / scale`."""

    domain: str
    name: str  # view, rate, listen ...
    mean: float = 0.0
    scale: float = 1.0
    valued: bool = True  # whether its events may carry a value; the ranker never met one where not

    def __post_init__(self) -> None:
        """Refuse numbers that cannot normalise a value."""
        if not (math.isfinite(self.mean) and math.isfinite(self.scale) and self.scale > 0):
            raise BundleError(
                f"behaviour {self.domain}.{self.name}: mean {self.mean} and scale {self.scale} must be finite, "
                "scale above 0"
            )


@dataclass(frozen=True)
class InputContract:
    """What the graphs take."""

    max_tokens: int  # of one text, [CLS] and [SEP] included
    max_history: int  # events of one user
    vector_size: int  # D
    behaviours: tuple[Behaviour, ...]  # position = index in the ranker's input `behaviour`
    no_history: bool = False  # whether the ranker has met users without a history

    def __post_init__(self) -> None:
        """Refuse bounds no text or history could meet."""
        if self.max_tokens < 3 or self.max_history < 1 or self.vector_size < 1:
            raise BundleError(
                f"input contract: max_tokens {self.max_tokens} (least 3), max_history {self.max_history} (least 1), "
                f"vector_size {self.vector_size} (least 1)"
            )


@dataclass(frozen=True)
class Onnx:
    """What the graphs need."""

    opset: int = 17
    ir: int = 8
    onnxruntime: str = "1.20"  # the lowest version that serves them
    safe_without_vnni: bool | None = None  # whether profile `fast` cannot overflow on such a CPU; None: not known


@dataclass(frozen=True)
class Manifest:
    """Everything `manifest.json` says. `files` is filled by `write_manifest`."""

    name: str
    created: str  # ISO 8601
    tool: Mapping[str, str]  # name, version
    tasks: tuple[Task, ...]
    outputs: tuple[str, ...]  # what the ranker can be asked for: position = number in its input `asked`
    input: InputContract
    domains: Mapping[str, tuple[int, int]]  # catalogue rows [start, end) of each domain
    profiles: Mapping[Profile, str]  # profile -> encoder graph
    onnx: Onnx
    catalogue: Literal["teacher", "student"]  # which encoder made the item vectors
    stages: tuple[Mapping[str, Any], ...]  # the stage ledger, not read on the device
    quality: Mapping[str, Mapping[str, float]]  # task -> metric -> value
    certified: bool
    reasons: tuple[str, ...]  # why it is not certified
    data: Mapping[str, Any]  # name, split_hash, licence, notes
    files: Mapping[str, FileEntry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a manifest whose parts contradict each other."""
        names = [task.name for task in self.tasks]
        if not names or len(set(names)) != len(names):
            raise BundleError(f"manifest: tasks must be at least one and have distinct names, got {names}")
        pairwise = [task.name for task in self.tasks if task.pairwise]
        scored = [name for name in self.outputs if not name.endswith(ORDER)]
        ordered = {name.removesuffix(ORDER) for name in self.outputs}
        if (
            sorted(scored) != sorted(pairwise)
            or ordered != set(pairwise)
            or len(set(self.outputs)) != len(self.outputs)
        ):
            raise BundleError(f"manifest: the ranker gives {list(self.outputs)}, the pairwise tasks are {pairwise}")
        for domain, (start, end) in self.domains.items():
            if not 0 <= start <= end:
                raise BundleError(f"manifest: domain {domain} has rows [{start}, {end})")
        if not self.profiles or not set(self.profiles) <= {"fast", "exact"}:
            raise BundleError(f"manifest: profiles are fast and exact, got {sorted(self.profiles)}")
        for graph in self.profiles.values():
            check_name(graph)


def write_manifest(folder: str | Path, manifest: Manifest) -> Manifest:
    """Hash every file of `folder`, write `manifest.json` and return the manifest with its `files`.

    Call it last, and again after adding a file. Raises BundleError for a file name a bundle may not hold and for a
    value JSON cannot hold (NaN).
    """
    folder = Path(folder)
    complete = replace(manifest, files=hash_folder(folder))
    try:
        text = json.dumps(_to_json(complete), indent=1, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BundleError(f"manifest of {manifest.name}: {error}; use null for a number that is missing") from error
    write_whole(folder / "manifest.json", text + "\n")
    return complete


def read_manifest(folder: str | Path, verify: bool = True) -> Manifest:
    """Read `manifest.json` and compare every file with it.

    Existence and size of the files are always compared, SHA-256 with `verify`. Raises BundleError naming the file,
    what was expected, what was found and what to do.
    """
    folder = Path(folder)
    path = folder / "manifest.json"
    data = read_bounded(path, MAX_MANIFEST_BYTES)
    try:
        table = json.loads(data, parse_constant=_refuse_constant)
        newest = table["format"]
        if type(newest) is int and newest > FORMAT:
            raise BundleError(
                f"{path}: bundle format {newest}, this runtime reads {FORMAT}; install a newer mtrec-edge"
            )
        if type(newest) is int and 0 < newest < FORMAT:
            raise BundleError(
                f"{path}: bundle format {newest}, this runtime reads {FORMAT}; make the bundle again with this version"
            )
        manifest = _from_json(table)
    except KeyError as error:
        raise BundleError(f"{path}: {error} is missing; the bundle is damaged, get it again") from error
    except (TypeError, ValueError, AttributeError, RecursionError, OverflowError, InputError) as error:
        raise BundleError(f"{path}: {error}; the bundle is damaged, get it again") from error
    heads = () if all(task.pairwise for task in manifest.tasks) else (TEXT_HEADS,)
    if unlisted := {*REQUIRED, *manifest.profiles.values(), *heads} - set(manifest.files):
        raise BundleError(f"{path}: files lacks {', '.join(sorted(unlisted))}; the bundle is incomplete, get it again")
    check_files(folder, manifest.files, hashes=verify)
    return manifest


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number a manifest may hold")


def _to_json(manifest: Manifest) -> dict[str, Any]:
    """Lay the manifest out as docs/bundle-format.md does."""
    table = {key: getattr(manifest, key) for key in manifest.__dataclass_fields__}
    table["tasks"] = [dict(vars(task)) for task in manifest.tasks]
    table["onnx"] = {key: value for key, value in vars(manifest.onnx).items() if value is not None}
    table["input"] = vars(manifest.input) | {"behaviours": [_behaviour(b) for b in manifest.input.behaviours]}
    if not manifest.input.no_history:
        del table["input"]["no_history"]
    table["files"] = {name: vars(entry) for name, entry in manifest.files.items()}
    return {"format": FORMAT} | table


def _behaviour(behaviour: Behaviour) -> dict[str, Any]:
    return {key: value for key, value in vars(behaviour).items() if key != "valued" or not value}


def _from_json(table: dict[str, Any]) -> Manifest:
    """Build the manifest; KeyError, TypeError or ValueError when the table is not one."""
    if _whole(table["format"]) != FORMAT:
        raise ValueError(f"format {table['format']} was never written")
    return Manifest(
        name=_text(table["name"]),
        created=_text(table["created"]),
        tool={_text(key): _text(value) for key, value in table["tool"].items()},
        tasks=tuple(_task(row) for row in table["tasks"]),
        outputs=tuple(_text(name) for name in table["outputs"]),
        input=_input(table["input"]),
        domains={name: (_whole(start), _whole(end)) for name, (start, end) in table["domains"].items()},
        profiles={_profile(key): _text(value) for key, value in table["profiles"].items()},
        onnx=_onnx(table["onnx"]),
        catalogue=_encoder(table["catalogue"]),
        stages=tuple(dict(row) for row in table["stages"]),
        quality={task: dict(metrics) for task, metrics in table["quality"].items()},
        certified=table["certified"] is True,
        reasons=tuple(_text(reason) for reason in table["reasons"]),
        data=dict(table["data"]),
        files={name: FileEntry(_whole(row["size"]), _text(row["sha256"])) for name, row in table["files"].items()},
    )


def _onnx(row: dict[str, Any]) -> Onnx:
    safe = row.get("safe_without_vnni")
    if safe is not None and not isinstance(safe, bool):
        raise TypeError(f"safe_without_vnni {safe!r} is neither true nor false")
    return Onnx(_whole(row["opset"]), _whole(row["ir"]), _text(row["onnxruntime"]), safe)


def _task(row: dict[str, Any]) -> Task:
    labels = tuple(_text(label) for label in row["labels"])
    low, high = (None if row[key] is None else _real(row[key]) for key in ("low", "high"))
    temperature = _real(row["temperature"])
    return Task(_text(row["name"]), Kind(row["kind"]), labels, low, high, row["ranks"] is True, temperature)


def _input(row: dict[str, Any]) -> InputContract:
    behaviours = tuple(
        Behaviour(
            _text(b["domain"]), _text(b["name"]), _real(b["mean"]), _real(b["scale"]), b.get("valued", True) is True
        )
        for b in row["behaviours"]
    )
    max_tokens, max_history, size = (_whole(row[key]) for key in ("max_tokens", "max_history", "vector_size"))
    return InputContract(max_tokens, max_history, size, behaviours, row.get("no_history", False) is True)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} where text was expected")
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} where a whole number was expected")
    return value


def _real(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} where a number was expected")
    return float(value)


def _profile(value: Any) -> Profile:
    if value not in ("fast", "exact"):
        raise ValueError(f"profile {value!r} is neither fast nor exact")
    return "fast" if value == "fast" else "exact"


def _encoder(value: Any) -> Literal["teacher", "student"]:
    if value not in ("teacher", "student"):
        raise ValueError(f"catalogue {value!r} is neither teacher nor student")
    return "teacher" if value == "teacher" else "student"
