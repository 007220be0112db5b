from pathlib import Path

import pytest

from mtrec_edge_runtime.whole_file import write_whole

pytestmark = pytest.mark.device


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "made" / "a.json"
    for text in ("old\n", "né\n"):
        write_whole(path, text)
    assert path.read_text(encoding="utf-8") == "né\n" and list(path.parent.iterdir()) == [path]
