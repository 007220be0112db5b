"""How a run is made rather than what: the models it begins with, the device, the folder of its stages, what it shows.

Knows nothing of recipes: these do not say what is learnt, and a run may go on with another device or less to see.
"""

from dataclasses import dataclass
from pathlib import Path

from mtrec_edge_compress.training import Device


@dataclass(frozen=True)
class RunOptions:
    """What a run is given beside recipe, data and `out`."""

    encoder: str | None = None  # hub id or folder of the teacher's encoder, over the recipe's
    teachers: tuple[Path, ...] = ()  # checkpoints: the first is the teacher and only measured, the others join its word
    device: Device = "auto"  # where to train
    work: Path | None = None  # where stages keep what they made; by default `out` with `.work` behind it
    progress: bool = True  # show progress bars on stderr
