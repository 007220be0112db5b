"""Which cells the benchmark measures, and for how long: the protocol as data. Starts nothing, reads nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mtrec_edge_runtime.bench_cell import Cell
from mtrec_edge_runtime.errors import InputError
from mtrec_edge_runtime.machine import usable_cores
from mtrec_edge_runtime.manifest import Manifest, Profile
from mtrec_edge_runtime.timing import Sampling


@dataclass(frozen=True)
class Protocol:
    """What is measured, and for how long. Of the defaults a published figure may narrow the lengths, nothing else."""

    tokens: tuple[int, ...] = (8, 16, 32, 64, 128)  # those the bundle's max_tokens allows
    batches: tuple[int, ...] = (1, 8)
    sampling: Sampling = field(default_factory=Sampling)
    repeats: int = 3  # processes a cell
    starts: int = 10  # processes of the cold start
    spread: float = 0.15  # repeats whose p50 differ by more are measured once more, then marked noisy
    cpu_share: float = 0.95  # a single-threaded cell that had less of its core is marked noisy likewise


QUICK = Protocol((8, 32), (1,), Sampling(samples=20, seconds=0, warmup_runs=3, warmup_seconds=0), repeats=1, starts=2)


def describe(cell: Cell) -> str:
    """Return one line that says what a cell measures."""
    size = f"{cell.domain}" if cell.kind in ("rank", "memory") else f"{cell.batch} x {cell.tokens} tokens"
    other = f" against {Path(cell.against).name}" if cell.against else ""
    return f"{Path(cell.bundle).name}: {cell.kind}, {size}, {cell.profile}, {cell.threads} thread(s){other}"


def plan_cells(bundle: Path, manifest: Manifest, *, against: Sequence[Path], protocol: Protocol) -> list[Cell]:
    """Return the cells of one bundle: encoding, ranking, memory, other encoders."""
    where, sampling, cores = str(bundle), protocol.sampling, usable_cores()
    lengths = [tokens for tokens in protocol.tokens if tokens <= manifest.input.max_tokens]
    if not lengths:
        asked = ", ".join(map(str, protocol.tokens))
        raise InputError(f"{bundle} reads {manifest.input.max_tokens} tokens, none of the lengths asked for: {asked}")
    domains = sorted({task.domain for task in manifest.tasks if task.pairwise} & manifest.domains.keys())
    cells = [
        Cell("encode", where, profile, threads, batch, tokens, sampling=sampling)
        for profile in manifest.profiles
        for threads, batch in _grid(profile, cores, protocol)
        for tokens in lengths
    ]
    cells += [
        Cell("rank", where, threads=threads, domain=domain, sampling=sampling)
        for threads in sorted({1, cores})
        for domain in domains
    ]
    cells += [Cell("memory", where, profile, domain=domains[0]) for profile in manifest.profiles if domains]
    cells += [
        Cell("against", where, tokens=tokens, against=str(other), sampling=sampling)
        for other in against
        for tokens in lengths
    ]
    return cells


def _grid(profile: Profile, cores: int, protocol: Protocol) -> list[tuple[int, int]]:
    """Return (threads, batch) pairs: every batch on one thread, single texts on all cores; `exact` one text alone."""
    if profile == "exact":
        return [(1, 1)]
    return [(1, batch) for batch in protocol.batches] + ([(cores, 1)] if cores > 1 else [])
