"""Unlabelled files: clean, scrubbed, bounded, the same for the same seed; what cannot be read says so."""

import gzip
from pathlib import Path

import pytest

from mtrec_edge_compress.unlabelled import MAX_CHARACTERS, read_unlabelled
from mtrec_edge_runtime.errors import DataError


def written(folder: Path, *lines: str) -> str:
    path = folder / "texts.txt.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    return str(path)


def test_texts_are_distinct_clean_and_scrubbed(tmp_path: Path) -> None:
    path = written(tmp_path, "a <b>red</b> shoe", "", "a <b>red</b> shoe", "write to jo@example.org", "x" * 5000)
    found = read_unlabelled([path], most=10, seed=0)
    assert found == ("a red shoe", "write to email", "x" * MAX_CHARACTERS)


def test_at_most_as_many_as_asked_for_and_the_same_again(tmp_path: Path) -> None:
    path = written(tmp_path, *(f"text {number}" for number in range(100)))
    found = read_unlabelled([path], most=7, seed=0)
    assert len(found) == 7 and found == read_unlabelled([path], most=7, seed=0)
    assert found != read_unlabelled([path], most=7, seed=1)


def test_no_file_no_text() -> None:
    assert read_unlabelled([], most=7, seed=0) == ()


def test_what_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file .*none.txt"):
        read_unlabelled([str(tmp_path / "none.txt")], most=1, seed=0)
    (tmp_path / "latin.txt").write_bytes("café\n".encode("latin-1"))
    with pytest.raises(DataError, match="one text a line in UTF-8"):
        read_unlabelled([str(tmp_path / "latin.txt")], most=1, seed=0)
    (tmp_path / "no.gz").write_text("plain")
    with pytest.raises(DataError, match="no readable text file"):
        read_unlabelled([str(tmp_path / "no.gz")], most=1, seed=0)
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(DataError, match="holds no text"):
        read_unlabelled([str(tmp_path / "empty.txt")], most=1, seed=0)
