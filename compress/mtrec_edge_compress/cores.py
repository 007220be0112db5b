"""The cores of a machine whose processes share them: while one works and the others wait, it takes them all."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import PartialState

from mtrec_edge_runtime.machine import usable_cores


@contextmanager
def every_core() -> Iterator[None]:
    """Give torch, and graphs that ask it how many threads to take, every core; a process alone keeps what it has."""
    before = torch.get_num_threads()
    if PartialState().num_processes > 1:
        torch.set_num_threads(usable_cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)
