"""Unlabelled text files for distillation: one text a line, plain or gzip. Cleaned and scrubbed of personal data."""

import gzip
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mtrec_edge_compress.data.clean_text import clean_text
from mtrec_edge_compress.data.privacy import scrub_text
from mtrec_edge_runtime.errors import DataError

MAX_CHARACTERS = 2000  # of a line; what stands behind is not read


def read_unlabelled(paths: Sequence[str], *, most: int, seed: int) -> tuple[str, ...]:
    """Return at most `most` distinct texts of the files, drawn at random, the same for the same seed.

    Raises:
        DataError: a file is missing, is no UTF-8 text, or holds no text.
    """
    check_files(paths)
    found: dict[str, None] = {}
    for path in paths:
        before = len(found)
        found.update(dict.fromkeys(_lines(Path(path))))
        if len(found) == before:
            raise DataError(f"{path} holds no text that is not in the files before it; the next step: leave it out")
    texts = list(found)
    chosen = np.sort(np.random.default_rng((seed, 6)).permutation(len(texts))[:most])
    counts: Counter[str] = Counter()
    cleaned = (scrub_text(clean_text(texts[number]), counts) for number in chosen)
    return tuple(dict.fromkeys(text for text in cleaned if text))


def check_files(paths: Sequence[str]) -> None:
    """Raise DataError where there is no such file."""
    for path in paths:
        if not Path(path).is_file():
            raise DataError(f"there is no file {path} of unlabelled texts; the next step: name one that is there")


def file_hash(path: str) -> str:
    """Return the SHA-256 of a file's content."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _lines(path: Path) -> Iterator[str]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for line in file:
                if text := line[:MAX_CHARACTERS].strip():
                    yield text
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, IsADirectoryError) as error:
        raise DataError(
            f"{path} is no readable text file ({error}); the next step: one text a line in UTF-8, .txt or .txt.gz"
        ) from error
