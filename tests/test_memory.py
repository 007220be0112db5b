"""Freed memory is kept, and answers are not changed by asking for it."""

import platform
import subprocess
import sys

import pytest

from mtrec_edge_compress.memory import keep_freed_memory

FAULTS = """
import resource
import torch
from mtrec_edge_compress.memory import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
torch.set_num_threads(1)
for step in range(70):
    if step == 20:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 * 2**20) + 1  # 64 MB: above 32 the C library maps and unmaps every time, unless told
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc: nothing to tell it")
def test_steps_no_longer_fault_their_memory_in_again() -> None:
    faults = [
        int(subprocess.run([sys.executable, "-c", FAULTS.format(keep=keep)], check=True, capture_output=True).stdout)
        for keep in (False, True)
    ]
    assert faults[1] * 20 < faults[0]


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()
