"""Check that an environment with the device wheel holds numpy, onnxruntime and what these ask for, and nothing else.

Run it with that environment's Python before anything is installed besides the wheel. Imports every module of the
runtime, so that a forgotten heavy import fails here.
"""

import importlib
import pkgutil
import re
import sys
from importlib.metadata import distributions, requires

DIRECT = {"numpy", "onnxruntime"}
TOOLS = {"pip", "setuptools", "wheel"}  # what venv itself may bring


def main() -> None:
    """Exit with a message for the first thing that does not belong."""
    direct = _required("mtrec-edge-runtime")
    if direct != DIRECT:
        sys.exit(f"mtrec-edge-runtime asks for {sorted(direct)}, allowed are {sorted(DIRECT)}: runtime/pyproject.toml")
    closure, open_names = {"mtrec-edge-runtime"}, set(DIRECT)
    while open_names:
        closure |= open_names
        open_names = set().union(*(_required(name) for name in open_names)) - closure
    installed = {_plain(distribution.metadata["Name"]) for distribution in distributions()}
    if strangers := installed - closure - TOOLS:
        sys.exit(f"installed beside the device wheel without need: {sorted(strangers)}")
    runtime = importlib.import_module("mtrec_edge_runtime")
    for module in pkgutil.walk_packages(runtime.__path__, "mtrec_edge_runtime."):
        importlib.import_module(module.name)
    print(f"the device wheel needs {', '.join(sorted(installed - TOOLS - {'mtrec-edge-runtime'}))}")


def _required(name: str) -> set[str]:
    """Return the installed requirements of a distribution, extras left out."""
    wanted = [line for line in requires(name) or [] if "extra ==" not in line]
    names = {_plain(re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]) for line in wanted}
    installed = {_plain(distribution.metadata["Name"]) for distribution in distributions()}
    return names & installed


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
