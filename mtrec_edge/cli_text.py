"""What commands share: the options, reading histories and candidates, printing tables and JSON.

Knows click; knows nothing of bundles or training.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mtrec_edge_runtime.history import Candidate, HistoryEntry

SEED = click.IntRange(0, 2**32 - 1)  # what random generators take
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
quiet_option = click.option("--quiet", is_flag=True, help="Show no progress on stderr.")
bundle_argument = click.argument("bundle", type=click.Path(path_type=Path))
profile_option = click.option(
    "--profile",
    type=click.Choice(["fast", "exact"]),
    default="fast",
    show_default=True,
    help="fast: dynamic INT8; exact: INT8 weights, FP32 arithmetic, the same in any batch and on any CPU.",
)
history_option = click.option(
    "--history",
    "history_ids",
    multiple=True,
    metavar="ID[=VALUE]",
    help="An item the user met, oldest first, with the user's rating if any; may repeat. None at all: a first visit.",
)
history_text_option = click.option(
    "--history-text",
    "history_texts",
    multiple=True,
    metavar="TEXT",
    help="An item the catalogue does not hold, as text; counts as later than every --history; may repeat.",
)
behaviour_option = click.option(
    "--behaviour",
    help="What the user did with the items, e.g. rate; default: the domain's first, for a value its first with values.",
)
candidates_option = click.option(
    "--candidates",
    "candidate_ids",
    multiple=True,
    metavar="ID",
    help="An item to score; may repeat; default: every catalogue item of the domain.",
)
candidate_text_option = click.option(
    "--candidate-text",
    "candidate_texts",
    multiple=True,
    metavar="TEXT",
    help="A new item to score, as text; may repeat.",
)


def parse_history(ids: Sequence[str], texts: Sequence[str], *, behaviour: str | None) -> "list[HistoryEntry]":
    """Turn `--history` and `--history-text` values into events, oldest first.

    `m1=4.5` is item m1 with the value 4.5; what follows the last `=` is part of the id when it is not a number.
    """
    from mtrec_edge_runtime.history import Event

    events: list[HistoryEntry] = []
    for entry in ids:
        item, value = _split_value(entry)
        events.append(Event(item=item, behaviour=behaviour, value=value))
    events.extend(Event(text=text, behaviour=behaviour) for text in texts)
    return events


def parse_candidates(ids: Sequence[str], texts: Sequence[str]) -> "list[Candidate] | None":
    """Turn `--candidates` and `--candidate-text` values into candidates; None when neither was given."""
    from mtrec_edge_runtime.history import NewItem

    return [*ids, *(NewItem(title=text) for text in texts)] or None


def parse_names(text: str) -> list[str]:
    """Return the names of a list such as `a, b`, each once."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def print_json(value: Any) -> None:
    """Print a value as one JSON document on stdout."""
    click.echo(json.dumps(value, indent=1, ensure_ascii=False))


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under a header in aligned columns: text to the left, numbers to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(line[column]) for line in [list(header), *cells]) for column in range(len(header))]
    right = [bool(rows) and isinstance(rows[0][column], int | float) for column in range(len(header))]
    for line in [list(header), *cells]:
        padded = (
            text.rjust(width) if flush else text.ljust(width)
            for text, width, flush in zip(line, widths, right, strict=True)
        )
        click.echo("  ".join(padded).rstrip())


def _split_value(entry: str) -> tuple[str, float | None]:
    item, _, value = entry.rpartition("=")
    try:
        return (item, float(value)) if item else (entry, None)
    except ValueError:
        return entry, None


def _cell(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
