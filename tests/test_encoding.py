"""What an encoder said, on disk: equal when read again, mapped rather than read, written whole."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mtrec_edge_compress.encoding import Encoded, load_encoded, save_encoded
from mtrec_edge_runtime.errors import StageError

VECTORS = np.arange(12, dtype=np.float32).reshape(4, 3)


def encoded() -> Encoded:
    words = {0: np.ones((2, 3), np.float32), 3: np.full((1, 3), 2, np.float32)}
    return Encoded(VECTORS.copy(), {"a/b": VECTORS + 1, "c": VECTORS * 2}, {"queries.tags": words, "none": {}})


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    save_encoded(encoded(), tmp_path / "soft")
    found, expected = load_encoded(tmp_path / "soft"), encoded()
    assert np.array_equal(found.vectors, VECTORS)
    assert found.logits.keys() == expected.logits.keys() and found.word_logits["none"] == {}
    assert all(np.array_equal(found.logits[name], logits) for name, logits in expected.logits.items())
    for row, logits in expected.word_logits["queries.tags"].items():
        assert np.array_equal(found.word_logits["queries.tags"][row], logits)
    assert [path.name for path in tmp_path.iterdir()] == ["soft"]  # no name of a task became a path


def test_vectors_are_mapped_and_a_write_stays_in_memory(tmp_path: Path) -> None:
    save_encoded(encoded(), tmp_path / "soft")
    found = load_encoded(tmp_path / "soft")
    assert not found.vectors.flags.owndata
    shared = torch.from_numpy(found.vectors)  # neither copied nor warned of
    found.vectors[0] = 9
    assert shared[0, 0] == 9 and load_encoded(tmp_path / "soft").vectors[0, 0] == 0


def test_an_older_folder_is_replaced(tmp_path: Path) -> None:
    save_encoded(encoded(), tmp_path / "soft")
    save_encoded(Encoded(VECTORS + 5, {}, {}), tmp_path / "soft")
    found = load_encoded(tmp_path / "soft")
    assert found.vectors[0, 0] == 5 and found.logits == {} and not (tmp_path / "soft/class-0.npy").exists()


def test_a_missing_folder_is_told_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"soft holds no outputs of an encoder; the next step: delete .*stage\.json"):
        load_encoded(tmp_path / "soft")
