"""What a fresh process loads, writes and connects to."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mtrec_edge_runtime import Recommender

pytestmark = pytest.mark.device

USE = """
import os, sys, threading
sockets = set()

def watch():
    while not done.wait(0.001):
        for number in os.listdir("/proc/self/fd"):
            try:
                target = os.readlink(f"/proc/self/fd/{number}")
            except OSError:
                continue
            if target.startswith("socket:"):
                sockets.add(target)

sys.addaudithook(lambda event, arguments: sockets.add(event) if event.startswith("socket.") else None)
done = threading.Event()
watcher = threading.Thread(target=watch)
if os.path.isdir("/proc/self/fd"):
    watcher.start()
from mtrec_edge_runtime import NewItem, Recommender
rec = Recommender(sys.argv[1])
rec.rank(["alien", "hobbit"], task="movies.like")
rec.similar(NewItem("Space"), domain="movies")
done.wait(1.0)
done.set()
print(os.environ["ORT_DISABLE_TELEMETRY"], sorted(sockets))
"""


def run(code: str, *arguments: object, home: Path, **environment: str) -> str:
    """Run code in a fresh Python whose home is `home`; return what it printed."""
    paths = os.pathsep.join(path for path in sys.path if path)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("ORT_", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        env=inherited | {"HOME": str(home), "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_loads_numpy_but_not_onnxruntime(tmp_path: Path) -> None:
    code = "import sys, mtrec_edge_runtime; print(sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = run(code, home=tmp_path)
    assert "'numpy'" in loaded
    for heavy in ("onnxruntime", "torch", "transformers", "tokenizers", "polars", "onnx", "click", "socket", "ssl"):
        assert f"'{heavy}'" not in loaded


def test_home_stays_empty_and_no_socket_is_opened(tmp_path: Path, tiny: Path) -> None:
    assert run(USE, tiny, home=tmp_path) == "1 []"
    assert list(tmp_path.rglob("*")) == []


def test_a_telemetry_setting_of_the_user_is_kept(tmp_path: Path, tiny: Path) -> None:
    code = (
        "import os, sys; from mtrec_edge_runtime import Recommender; Recommender(sys.argv[1]); "
        "print(os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    assert run(code, tiny, home=tmp_path, ORT_DISABLE_TELEMETRY="true") == "true"


def test_the_bundle_may_lie_in_a_read_only_folder_with_a_strange_name(tmp_path: Path, tiny: Path) -> None:
    place = Path(shutil.copytree(tiny, tmp_path / "bündel 包 v1"))
    for path in place.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert Recommender(place).rank(["alien"], task="movies.like", k=1)[0].item == "star-wars"
