"""Commands that make bundles: quickstart, compress. They import the toolkit in their bodies."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import click

from mtrec_edge.cli_options import (
    device_option,
    encoder_option,
    overrides_option,
    prepared_option,
    recipe_argument,
)
from mtrec_edge.cli_text import SEED, json_option, parse_names, print_json, print_table, quiet_option


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("work/quickstart"),
    show_default=True,
    help="Folder for the dataset, the stages and the bundle.",
)
@click.option(
    "--seed",
    type=SEED,
    default=0,
    show_default=True,
    help="Seed of the synthetic world and of training.",
)
@json_option
@quiet_option
def quickstart(out: Path, seed: int, as_json: bool, quiet: bool) -> None:
    """Take a synthetic world of four domains through every stage to a bundle.

    Downloads nothing. Prints a ranking example and the table of what each stage cost.

    \b
    Example:
      mtrec-edge quickstart --out work/quickstart
    """
    from mtrec_edge_compress.quickstart import quickstart as run_quickstart

    result = run_quickstart(out, seed=seed, progress=not quiet)
    if as_json:
        print_json(result.ledger)
    else:
        click.echo(result.example_text)
        click.echo(result.ledger_text)
    _tell_report(result.report, quiet)
    _exit_unless_certified(result.certified, result.reasons)


@click.command()
@recipe_argument
@prepared_option
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write the bundle to.")
@encoder_option
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Trained teacher checkpoint: skips training one; repeated, the student learns from all of them together.",
)
@device_option
@overrides_option
@click.option(
    "--unlabelled",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Unlabelled texts for distillation, one a line, .txt or .txt.gz; may repeat.",
)
@click.option("--max-mb", type=click.FloatRange(min=0, min_open=True), help="Budget: MB of all but the catalogue.")
@click.option(
    "--max-ms",
    type=click.FloatRange(min=0, min_open=True),
    help="Budget: ms for a text of 32 tokens, one thread.",
)
@click.option(
    "--max-drop",
    "drops",
    multiple=True,
    metavar="TASK=SHARE",
    help="Budget: greatest loss of a task against the teacher, e.g. movies.like=1.5%; may repeat.",
)
@click.option(
    "--tiers", metavar="A,B", default="", help="Make a bundle OUT/A of each of these tiers of the recipe, one teacher."
)
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    help="Folder of the stages' checkpoints, read after a kill; default: beside the bundle.",
)
@json_option
@quiet_option
def compress(
    recipe: Path,
    data: Path,
    out: Path,
    encoder: str | None,
    teachers: tuple[Path, ...],
    device: Literal["auto", "cpu", "cuda"],
    overrides: tuple[str, ...],
    unlabelled: tuple[Path, ...],
    max_mb: float | None,
    max_ms: float | None,
    drops: tuple[str, ...],
    tiers: str,
    work: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train a teacher on DATA, distill, prune, quantize and bundle it.

    RECIPE is a TOML file, see recipes/. Run again after a kill, it goes on at the last finished stage. Prints the
    ledger of the stages, or a line a tier, and writes a report (.html, .md) into the work folder; exits with 1 when
    a bundle does not keep the recipe's limits.

    \b
    Example:
      mtrec-edge compress recipes/own-data.toml --data work/own-data --out work/own-bundle
    """
    overrides += budget_overrides(max_mb, max_ms, drops)
    if unlabelled:
        overrides += (f"augment.unlabelled={json.dumps([str(path) for path in unlabelled], ensure_ascii=False)}",)
    names = parse_names(tiers)

    from accelerate import PartialState

    from mtrec_edge_compress.pipeline import run
    from mtrec_edge_compress.run_options import RunOptions
    from mtrec_edge_compress.tiers import run_tiers

    options = RunOptions(encoder, teachers, device, work, progress=not quiet)
    if names:
        found = run_tiers(recipe, names, data=data, out=out, options=options, overrides=overrides)
        if not PartialState().is_main_process:
            return
        if as_json:
            print_json(found.result)
        else:
            print_table(*found.table())
        _tell_report(found.report, quiet)
        _exit_unless_certified(found.certified, found.reasons)
        return
    result = run(recipe, data=data, out=out, options=options, overrides=overrides)
    if not PartialState().is_main_process:  # of several, one speaks
        return
    if as_json:
        print_json(result.ledger)
    else:
        click.echo(result.ledger_text)
    _tell_report(result.report, quiet)
    _exit_unless_certified(result.certified, result.reasons)


def budget_overrides(max_mb: float | None, max_ms: float | None, drops: Sequence[str]) -> tuple[str, ...]:
    """Return the budget's options as overrides of the recipe; a share may be a percentage.

    A limit of time is judged in the end, and pruned to before: shapes are chosen by what they take on this machine.

    >>> budget_overrides(3.2, None, ["movies.like=1.5%"])
    ('budget.max_mb=3.2', 'budget.max_drop.movies.like=0.015')
    """
    limits = {"budget.max_mb": max_mb, "budget.max_ms": max_ms, "prune.max_ms": max_ms}
    limits |= {f"budget.max_drop.{task}": share for task, share in map(_share, drops)}
    return tuple(f"{name}={float(limit)!r}" for name, limit in limits.items() if limit is not None)


def _share(text: str) -> tuple[str, float]:
    task, _, number = text.partition("=")
    try:
        share = float(number.removesuffix("%"))
    except ValueError:
        share = float("nan")
    share = round(share / 100, 12) if number.endswith("%") else share
    if not task or not 0 <= share < 1:
        raise click.UsageError(
            f"--max-drop {text!r}: write it as TASK=SHARE, a share from 0 to below 1, e.g. movies.like=1.5% or "
            "movies.like=0.015"
        )
    return task, share


def _tell_report(page: Path, quiet: bool) -> None:
    """Say on stderr where the report lies."""
    if not quiet:
        click.echo(f"report: {page}, and {page.with_suffix('.md').name} beside it", err=True)


def _exit_unless_certified(certified: bool, reasons: tuple[str, ...]) -> None:
    """Say on stderr why a bundle is not certified, and exit with 1."""
    if certified:
        return
    click.echo("not certified: the bundle misses the limits of its recipe", err=True)
    for reason in reasons:
        click.echo(f"  {reason}", err=True)
    sys.exit(1)
