"""The committed tiny bundle is what its maker makes."""

import runpy
from pathlib import Path

DEVICE = Path(__file__).parent / "device"


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_making_the_tiny_bundle_again_gives_the_same_files(tmp_path: Path) -> None:
    runpy.run_path(str(DEVICE / "make_tiny_bundle.py"))["make"](tmp_path)
    made, committed = files(tmp_path), files(DEVICE / "tiny_bundle")
    assert set(made) == set(committed)
    for name in set(made) - {"golden.json", "manifest.json"}:  # golden numbers may differ in the last digit
        assert made[name] == committed[name], name


def test_the_tiny_bundle_is_small() -> None:
    assert sum(map(len, files(DEVICE / "tiny_bundle").values())) < 60_000
