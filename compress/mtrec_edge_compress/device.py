"""Where a model is trained and run. Knows nothing of models."""

from typing import Literal

import torch

from mtrec_edge_runtime.errors import StageError

Device = Literal["auto", "cpu", "cuda"]


def open_device(device: Device) -> torch.device:
    """Return the device asked for.

    Raises:
        StageError: CUDA was asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise StageError(
            "--device cuda was asked for and this machine shows no CUDA device to torch "
            f"{torch.__version__}; the next step: --device cpu, or a CUDA build of torch with its driver"
        )
    use_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if use_cuda else "cpu")
