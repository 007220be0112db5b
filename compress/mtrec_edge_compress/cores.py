"""The cores of a machine: small works side by side, and all of them for whoever works while other processes wait."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from accelerate import PartialState
from threadpoolctl import threadpool_limits

from mtrec_edge_runtime.machine import usable_cores

Work = TypeVar("Work")
Found = TypeVar("Found")
AHEAD = 64  # works that may be done before their outcome is asked for: outcomes can be large
MOST = 4  # works at once: each holds what it computes with, and they share the interpreter


def on_every_core(do: Callable[[Work], Found], works: Sequence[Work]) -> Iterator[Found]:
    """Yield `do(work)` in order, done side by side on every core (at most 4), each on one thread.

    It pays where `do` spends its time in torch, ONNX Runtime or numpy, and is too small to be shared among threads.
    """
    threads = torch.get_num_threads()
    try:
        pool = ThreadPoolExecutor(min(usable_cores(), MOST), initializer=torch.set_num_threads, initargs=(1,))
        with threadpool_limits(1, "blas"), pool:
            for start in range(0, len(works), AHEAD):
                yield from pool.map(do, works[start : start + AHEAD])
    finally:
        torch.set_num_threads(threads)  # what a thread sets holds for those that are made later, too


@contextmanager
def every_core() -> Iterator[None]:
    """Give torch and BLAS every core while the other processes, which share them, wait; one alone keeps what it has."""
    if PartialState().num_processes == 1:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(usable_cores())
    try:
        with threadpool_limits(usable_cores(), "blas"):
            yield
    finally:
        torch.set_num_threads(before)
