"""Facts about what is installed: two wheels from one tree, light imports, the public names."""

import subprocess
import sys
import tomllib
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

import mtrec_edge

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {"mtrec_edge": ROOT, "mtrec_edge_compress": ROOT / "compress", "mtrec_edge_runtime": ROOT / "runtime"}


def build_wheel(project: Path, out: Path) -> set[str]:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=project, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def files_on_disk(package: str) -> set[str]:
    root = SOURCES[package]
    found = (path for path in (root / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(root).as_posix() for path in found}


def loaded_by(code: str) -> set[str]:
    """Return the top-level modules, standard library apart, that a fresh process holds after running `code`."""
    script = f"{code}\nimport sys; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    idle = subprocess.run([sys.executable, "-c", script.removeprefix(code)], capture_output=True, text=True, check=True)
    return set(done.stdout.split()) - set(idle.stdout.split()) - sys.stdlib_module_names


def test_the_wheel_holds_every_file_of_the_three_packages_and_nothing_else(tmp_path: Path) -> None:
    names = build_wheel(ROOT, tmp_path)
    packaged = {name for name in names if ".dist-info/" not in name}
    assert packaged == set().union(*(files_on_disk(package) for package in SOURCES))
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_device_wheel_holds_the_runtime_alone(tmp_path: Path) -> None:
    names = build_wheel(ROOT / "runtime", tmp_path)
    packaged = {name for name in names if ".dist-info/" not in name}
    assert packaged == files_on_disk("mtrec_edge_runtime")
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_both_wheels_ask_the_same_of_the_device() -> None:
    main = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    device = tomllib.loads((ROOT / "runtime" / "pyproject.toml").read_text())["project"]
    assert [line.split(">=")[0] for line in device["dependencies"]] == ["numpy", "onnxruntime"]
    assert [line for line in main["dependencies"] if not line.startswith("click")] == device["dependencies"]
    assert main["requires-python"] == device["requires-python"]


def test_importing_the_door_loads_nothing() -> None:
    assert loaded_by("import mtrec_edge") == {"mtrec_edge"}


def test_the_runtime_loads_numpy_and_onnxruntime_alone() -> None:
    modules = [path.stem for path in (ROOT / "runtime" / "mtrec_edge_runtime").glob("*.py") if path.stem[0] != "_"]
    code = "\n".join(f"import mtrec_edge_runtime.{module}" for module in sorted(modules))
    code += f"\nmtrec_edge_runtime.recommender.Recommender({str(ROOT / 'tests' / 'device' / 'tiny_bundle')!r})"
    assert loaded_by(code) == {"mtrec_edge_runtime", "numpy", "onnxruntime"}


def test_all_names_what_the_door_offers() -> None:
    assert mtrec_edge.__all__ == sorted(mtrec_edge.__all__)
    assert dir(mtrec_edge) == mtrec_edge.__all__
    for name in mtrec_edge.__all__:
        assert getattr(mtrec_edge, name) is not None
    errors = import_module("mtrec_edge_runtime.errors")
    tree = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert tree <= set(mtrec_edge.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'mtrec_edge' has no attribute 'recommend'"):
        mtrec_edge.recommend  # noqa: B018


def test_gitignore_is_anchored_so_that_it_hides_no_package() -> None:
    patterns = [line for line in (ROOT / ".gitignore").read_text().splitlines() if line and not line.startswith("#")]
    loose = {pattern for pattern in patterns if not pattern.startswith("/")}
    assert loose == {"__pycache__/", "*.egg-info/"}
