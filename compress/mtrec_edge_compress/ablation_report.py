"""What an ablation found: as tables, and as a result file. Knows nothing of how it was found."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mtrec_edge_compress.ablation import AS_IS
from mtrec_edge_compress.comparison import Comparison
from mtrec_edge_compress.comparison_report import (
    comparison_notes,
    comparison_samples,
    comparison_systems,
    format_comparison,
    headlines_of,
)
from mtrec_edge_compress.data.arrays import Arrays
from mtrec_edge_compress.ledger import dataset_info
from mtrec_edge_compress.recipe import Recipe
from mtrec_edge_runtime.results import Measured, Result, new_result, write_result, write_samples


def format_ablation(found: Mapping[str, Comparison]) -> str:
    """Return a table a change, and what has no figure."""
    parts = []
    for change, comparison in found.items():
        parts += [change, format_comparison(comparison, first=AS_IS, second="changed"), *comparison_notes(comparison)]
    return "\n\n".join(parts)


def ablation_result(
    found: Mapping[str, Comparison], recipe: Recipe, arrays: Arrays, *, command: Sequence[str]
) -> Result:
    """Return the outcome under the schema of `mtrec_edge_runtime.results`.

    Systems: `as is`, and for each CHANGE: `CHANGE`; `CHANGE - as is`, the paired gain with its interval and Holm's p
    over the change's metrics; `CHANGE, relative`, with `delta_m`. Of the last two + is better, of an error too.
    """
    result = new_result(f"{recipe.name}-ablation", command=command, seeds=[recipe.seed], dataset=dataset_info(arrays))
    systems: dict[str, dict[str, Measured]] = {}
    headlines: dict[str, str] = {}
    notes = list(arrays.dataset.notes)
    for change, comparison in found.items():
        systems |= comparison_systems(comparison, first=AS_IS, second=change, relative=f"{change}, relative")
        headlines |= headlines_of(comparison)
        notes += [f"{change}: {note}" for note in comparison_notes(comparison)]
    result["systems"], result["headlines"], result["notes"] = systems, headlines, notes
    return result


def write_ablation(path: Path, found: Mapping[str, Comparison], result: Result) -> None:
    """Write the result file `path`, the per-user values compressed beside it."""
    samples: dict[str, dict[str, Sequence[float | None]]] = {}
    for change, comparison in found.items():
        samples |= comparison_samples(comparison, first=AS_IS, second=change)
    result["samples"] = write_samples(path, samples)
    write_result(path, result)
