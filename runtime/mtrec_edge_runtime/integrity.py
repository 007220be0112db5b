"""The files of a bundle: their names, sizes and SHA-256.

Reads the files the manifest names; writes nothing. Knows nothing of what the files mean. A name cannot leave the
folder, and a size is compared with the manifest before a byte is read.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mtrec_edge_runtime.errors import BundleError

MAX_FILE_BYTES = 1 << 30  # no file of a bundle may be larger than 1 GiB
CHUNK_BYTES = 1 << 20
_NAME = re.compile(r"(?:catalogue/)?[a-z0-9_.-]+")


@dataclass(frozen=True)
class FileEntry:
    """What the manifest says of one file."""

    size: int  # bytes
    sha256: str  # 64 lower-case hexadecimal digits


def check_name(name: str) -> str:
    """Return `name`, or refuse one that is not `[a-z0-9_.-]+`, optionally inside `catalogue/`."""
    if not _NAME.fullmatch(name) or ".." in name or name.rsplit("/", 1)[-1] == ".":
        raise BundleError(
            f"file name {name!r} is not allowed in a bundle: use [a-z0-9_.-], no '..', catalogue/ as the only folder"
        )
    return name


def hash_file(path: Path) -> FileEntry:
    """Return size in bytes and SHA-256 of the file at `path`."""
    digest, size = hashlib.sha256(), 0
    buffer = memoryview(bytearray(CHUNK_BYTES))
    with path.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            digest.update(buffer[:count])
            size += count
    return FileEntry(size, digest.hexdigest())


def hash_folder(folder: Path) -> dict[str, FileEntry]:
    """Return the entry of every file under `folder`, sorted by name, but the manifest's own (`manifest.json*`)."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {check_name(name): hash_file(path) for name, path in names.items() if not name.startswith("manifest.json")}


def check_files(folder: Path, files: Mapping[str, FileEntry], *, hashes: bool = True) -> None:
    """Compare every file with its entry: that it is there, its size and, with `hashes`, its SHA-256.

    Raises BundleError for the first difference. All sizes are compared before anything is read.
    """
    for name, entry in files.items():
        path = folder / check_name(name)
        if not path.is_file():
            raise BundleError(f"{folder}: {name} is missing; copy the whole bundle again")
        if (found := path.stat().st_size) != entry.size or found > MAX_FILE_BYTES:
            raise BundleError(
                f"{folder}: {name} has {found} bytes, the manifest says {entry.size} (at most {MAX_FILE_BYTES}); "
                "the file is truncated or from another version: copy the bundle again"
            )
    for name, entry in files.items() if hashes else ():
        if (digest := hash_file(folder / name).sha256) != entry.sha256:
            raise BundleError(
                f"{folder}: {name} has SHA-256 {digest[:12]}..., the manifest says {entry.sha256[:12]}...; "
                "the file was altered: get the bundle again from its source"
            )


def read_bounded(path: Path, limit: int) -> bytes:
    """Return the file's bytes when there are at most `limit`; BundleError when it is missing or larger."""
    if not path.is_file():
        raise BundleError(
            f"{path}: no such file; give the folder of a bundle, with manifest.json and all that belongs to it"
        )
    with path.open("rb") as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise BundleError(f"{path}: larger than the {limit} bytes such a file may have; this is not a usable bundle")
    return data
