from types import SimpleNamespace

import pytest
import torch

from mtrec_edge_compress import cores


@pytest.mark.parametrize(("processes", "within"), [(1, 2), (2, 3)])
def test_one_of_several_processes_takes_every_core_for_a_while(monkeypatch, processes: int, within: int) -> None:
    monkeypatch.setattr(cores, "PartialState", lambda: SimpleNamespace(num_processes=processes))
    monkeypatch.setattr(cores, "usable_cores", lambda: 3)
    given = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(KeyError), cores.every_core():
            assert torch.get_num_threads() == within
            raise KeyError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(given)


def test_works_are_done_in_order_each_on_one_thread() -> None:
    given, count = torch.get_num_threads(), 2 * cores.AHEAD + 1
    torch.set_num_threads(2)
    try:
        found = list(cores.on_every_core(lambda work: (work, torch.get_num_threads()), range(count)))
        assert found == [(work, 1) for work in range(count)]
        assert torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError):
            list(cores.on_every_core(lambda work: 1 // work, range(3)))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(given)
