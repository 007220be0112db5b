"""The tiny bundle, opened in both profiles, and copies of it to damage."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mtrec_edge_runtime import Recommender
from mtrec_edge_runtime.manifest import read_manifest, write_manifest

TINY = Path(__file__).parent / "tiny_bundle"


@pytest.fixture(scope="session")
def tiny() -> Path:
    return TINY


@pytest.fixture(scope="session", params=["fast", "exact"])
def rec(request: pytest.FixtureRequest) -> Recommender:
    return Recommender(TINY, profile=request.param)


@pytest.fixture(scope="session")
def exact() -> Recommender:
    return Recommender(TINY, profile="exact")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "bundle"))


@pytest.fixture
def unwelcoming(copy: Path) -> Path:
    """A copy that says its ranker never met a user without a history."""
    manifest = read_manifest(copy)
    write_manifest(copy, replace(manifest, input=replace(manifest.input, no_history=False)))
    return copy


@pytest.fixture
def rehash() -> Callable[[Path], None]:
    """Make the manifest agree with changed files, as a careless or hostile writer would."""

    def run(folder: Path) -> None:
        write_manifest(folder, read_manifest(TINY))

    return run
