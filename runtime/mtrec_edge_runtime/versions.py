"""Versions of a bundle on a device: a new one is proven before it is used, and the one before it is kept.

A store is a folder with `versions/NAME`, a whole bundle each, NAME being the first 32 digits of its manifest's SHA-256,
and `current.json`, which names the version in use and the one before it and is replaced in one step. A kill, a full
disk or a damaged download leaves the version in use. One process at a time may change a store; any may read it.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

from mtrec_edge_runtime.errors import BundleError
from mtrec_edge_runtime.golden import check_golden
from mtrec_edge_runtime.integrity import hash_file, read_bounded
from mtrec_edge_runtime.manifest import read_manifest
from mtrec_edge_runtime.whole_file import sync, write_whole

POINTER, VERSIONS, STAGED = "current.json", "versions", ".new-"
MAX_POINTER_BYTES = 4096
_NAME = re.compile(r"[0-9a-f]{32}")


def install(bundle: str | Path, store: str | Path) -> Path:
    """Copy a bundle into a store, prove the copy on this device, make it current; return its folder.

    Every file's SHA-256 is compared with the manifest and the golden answers are asked for before the version counts; a
    version that is there and damaged is put right. Versions other than the new one and the one before are removed.
    A signature of the manifest is no file of the bundle: it is checked before and not copied.
    Raises BundleError where the bundle is damaged or answers otherwise here, OSError where it cannot be written, and
    leaves the version in use.
    """
    bundle, store = Path(bundle), Path(store)
    manifest = read_manifest(bundle)
    name = hash_file(bundle / "manifest.json").sha256[:32]
    before = _read(store) if (store / POINTER).exists() else ("", "")
    place = store / VERSIONS / name
    place.parent.mkdir(parents=True, exist_ok=True)
    if not _sound(place):
        with tempfile.TemporaryDirectory(prefix=STAGED, dir=store) as folder:
            staged = Path(folder) / name
            _copy(bundle, ("manifest.json", *manifest.files), staged)
            _prove(staged)
            if place.exists():
                place.replace(Path(folder) / "damaged")
            staged.replace(place)
            sync(place.parent)
    kept = before[1] if before[0] == name else before[0]
    _write(store, name, kept)
    _sweep(store, keep=(name, kept))
    return place


def current(store: str | Path) -> Path:
    """Return the folder of the version in use, to be opened by `Recommender`.

    Raises BundleError where nothing was installed or the store is damaged.
    """
    store = Path(store)
    return _folder(store, _read(store)[0])


def roll_back(store: str | Path) -> Path:
    """Make the version before the current one current, and the other the one before; return its folder.

    Raises BundleError, and changes nothing, where there is none or it is damaged.
    """
    store = Path(store)
    name, before = _read(store)
    if not before:
        raise BundleError(f"{store}: no version before the current one; install another bundle")
    place = _folder(store, before)
    read_manifest(place)
    _write(store, before, name)
    return place


def _copy(bundle: Path, files: Sequence[str], place: Path) -> None:
    """Copy files to the disk itself, so that a loss of power leaves no version that is current and half written."""
    for file in files:
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle / file, place / file)
        sync(place / file)
    for folder in (*(path for path in place.iterdir() if path.is_dir()), place):
        sync(folder)


def _prove(folder: Path) -> None:
    if failures := check_golden(folder):  # which compares every hash, too
        raise BundleError(f"{folder.name}: {len(failures)} golden answers differ on this device: {failures[0]}")


def _sound(folder: Path) -> bool:
    """Return whether a version is there and proves itself."""
    try:
        _prove(folder)
    except BundleError:
        return False
    return True


def _sweep(store: Path, *, keep: Collection[str]) -> None:
    """Remove versions that are not to be kept, and what a kill left; a version half removed has another name."""
    for version in (store / VERSIONS).iterdir():
        if _NAME.fullmatch(version.name) and version.name not in keep:
            version.replace(store / f"{STAGED}{version.name}")
    for left in store.glob(f"{STAGED}*"):
        shutil.rmtree(left, ignore_errors=True)


def _folder(store: Path, name: str) -> Path:
    place = store / VERSIONS / name
    if not place.is_dir():
        raise BundleError(f"{place}: no such folder, though {POINTER} names it; install the bundle again")
    return place


def _read(store: Path) -> tuple[str, str]:
    """Return the names of the current version and of the one before it, "" for none."""
    path = store / POINTER
    if not path.exists():
        raise BundleError(f"{store}: nothing is installed there; call install(bundle, store) first")
    try:
        names = json.loads(read_bounded(path, MAX_POINTER_BYTES))
        name, before = names["current"], names["before"]
        if not _NAME.fullmatch(name) or (before and not _NAME.fullmatch(before)):
            raise ValueError("a name is not 32 hexadecimal digits")
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not as install writes it ({error}); remove it and install a bundle") from error
    return name, before


def _write(store: Path, name: str, before: str) -> None:
    write_whole(store / POINTER, json.dumps({"current": name, "before": before}) + "\n")
