"""What a run is given beside its recipe: the models it begins with, the device, the stages' folder, bars or none.

Knows nothing of recipes or stages.
"""

from dataclasses import dataclass
from pathlib import Path

from mtrec_edge_compress.device import Device


@dataclass(frozen=True)
class RunOptions:
    """The options of one run."""

    encoder: str | None = None  # hub id or folder of the teacher's encoder, over the recipe's
    teachers: tuple[Path, ...] = ()  # checkpoints: the first is the teacher and only measured, the others join its word
    device: Device = "auto"  # where to train
    work: Path | None = None  # where stages keep what they made; by default `out` with `.work` behind it
    progress: bool = True  # show progress bars on stderr
