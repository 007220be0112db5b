"""A store keeps the version in use through damage, kills and refusals, and the version before it for a way back."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mtrec_edge_runtime import BundleError, Recommender, versions
from mtrec_edge_runtime.manifest import read_manifest, write_manifest
from mtrec_edge_runtime.versions import current, install, roll_back

pytestmark = pytest.mark.device


@pytest.fixture
def another(copy: Path) -> Callable[[str], Path]:
    """Make a bundle that differs by its name alone."""

    def make(name: str) -> Path:
        folder = Path(shutil.copytree(copy, copy.with_name(name)))
        write_manifest(folder, replace(read_manifest(folder), name=name))
        return folder

    return make


def held(store: Path) -> set[str]:
    return {read_manifest(folder).name for folder in (store / "versions").iterdir()}


def test_an_installed_bundle_is_a_copy_that_answers(tiny: Path, tmp_path: Path) -> None:
    place = install(tiny, tmp_path / "store")
    assert place == current(tmp_path / "store") and place.parent == tmp_path / "store" / "versions"
    assert {path.name for path in place.rglob("*")} >= {path.name for path in tiny.rglob("*.npy")}
    found = Recommender(current(tmp_path / "store")).rank(["alien"], task="movies.like", k=1)
    assert found == Recommender(tiny).rank(["alien"], task="movies.like", k=1)
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["current.json", "versions"]


def test_the_version_before_is_kept_and_older_ones_go(another: Callable[[str], Path], tmp_path: Path) -> None:
    store = tmp_path / "store"
    for name in ("one", "two", "three"):
        install(another(name), store)
    assert read_manifest(current(store)).name == "three" and held(store) == {"two", "three"}
    assert read_manifest(roll_back(store)).name == "two" == read_manifest(current(store)).name
    assert read_manifest(roll_back(store)).name == "three"
    install(another("four"), store)
    assert held(store) == {"three", "four"}


def test_the_same_bundle_again_changes_nothing(another: Callable[[str], Path], tmp_path: Path) -> None:
    store = tmp_path / "store"
    install(another("one"), store)
    second = another("two")
    place = install(second, store)
    assert install(second, store) == place and held(store) == {"one", "two"}
    assert read_manifest(roll_back(store)).name == "one"


def test_a_damaged_bundle_leaves_the_version_in_use(tiny: Path, copy: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    kept = install(tiny, store)
    (copy / "encoder.bin").write_bytes(b"\0" * (copy / "encoder.bin").stat().st_size)
    with pytest.raises(BundleError, match="the file was altered"):
        install(copy, store)
    assert current(store) == kept and len(list((store / "versions").iterdir())) == 1


def test_a_bundle_that_answers_otherwise_is_refused(
    tiny: Path, copy: Path, rehash: Callable[[Path], None], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    kept = install(tiny, store)
    golden = json.loads((copy / "golden.json").read_text())
    golden["texts"][0]["vector"][0] += 0.5
    (copy / "golden.json").write_text(json.dumps(golden))
    rehash(copy)
    with pytest.raises(BundleError, match="golden answers differ on this device"):
        install(copy, store)
    assert current(store) == kept
    assert sorted(path.name for path in store.iterdir()) == ["current.json", "versions"]


def test_what_a_kill_left_is_swept(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "store"
    (store / ".new-killed" / "half").mkdir(parents=True)

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(versions, "write_whole", dies)
    with pytest.raises(KeyboardInterrupt):
        install(tiny, store)
    with pytest.raises(BundleError, match="nothing is installed there"):
        current(store)
    monkeypatch.undo()
    assert install(tiny, store) == current(store)
    assert sorted(path.name for path in store.iterdir()) == ["current.json", "versions"]


def test_a_version_that_was_damaged_is_put_right_by_the_same_bundle(tiny: Path, tmp_path: Path) -> None:
    place = install(tiny, tmp_path)
    (place / "vocab.txt").write_text("")
    (place / "encoder.onnx").unlink()
    assert install(tiny, tmp_path) == place
    assert Recommender(current(tmp_path)).rank(["alien"], task="movies.like", k=1)
    shutil.rmtree(place / "catalogue")  # as a removal that was killed leaves it
    (place / "manifest.json").unlink()
    install(tiny, tmp_path)
    assert Recommender(current(tmp_path)).tasks
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current.json", "versions"]


def test_what_is_no_version_stays(another: Callable[[str], Path], tmp_path: Path) -> None:
    store = tmp_path / "store"
    own = store / "versions" / "my-own" / "thesis.txt"
    own.parent.mkdir(parents=True)
    own.write_text("kept")
    for name in ("one", "two", "three"):
        install(another(name), store)
    assert own.read_text() == "kept" and len(list((store / "versions").iterdir())) == 3


def test_an_installed_version_that_was_damaged_is_not_gone_back_to(
    another: Callable[[str], Path], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    first = install(another("one"), store)
    second = install(another("two"), store)
    (first / "vocab.txt").write_text("")
    with pytest.raises(BundleError, match="truncated"):
        roll_back(store)
    assert current(store) == second
    shutil.rmtree(second)
    with pytest.raises(BundleError, match="install the bundle again"):
        current(store)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "[" * 4000, '{"current": "../../etc", "before": ""}', '{"current": 3, "before": ""}']
)
def test_a_pointer_that_is_none_is_said(tiny: Path, tmp_path: Path, text: str) -> None:
    install(tiny, tmp_path)
    (tmp_path / "current.json").write_text(text)
    with pytest.raises(BundleError, match=r"current\.json: not as install writes it"):
        current(tmp_path)


def test_a_store_with_one_version_has_no_way_back(tiny: Path, tmp_path: Path) -> None:
    install(tiny, tmp_path)
    with pytest.raises(BundleError, match="no version before the current one"):
        roll_back(tmp_path)
