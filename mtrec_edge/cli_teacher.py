"""Commands that train teachers alone: tune, control. They import the toolkit in their bodies."""

import sys
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
from mtrec_edge.cli_text import json_option, parse_names, print_json, print_table, quiet_option


@click.command()
@recipe_argument
@prepared_option
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the search; it goes on there.")
@encoder_option
@device_option
@click.option(
    "--trials", type=click.IntRange(min=1), help="Finished trials there shall be; default: the recipe's tune.trials."
)
@overrides_option
@json_option
@quiet_option
def tune(
    recipe: Path,
    data: Path,
    out: Path,
    encoder: str | None,
    device: Literal["auto", "cpu", "cuda"],
    trials: int | None,
    overrides: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Search the teacher's settings on DATA and write the best recipe.

    Trains a teacher a trial with the values that the recipe's [tune] lets vary, judged on the validation fold; writes
    best.toml and trials.json to OUT. Run again after a kill, or with more --trials, it goes on. Prints the trials,
    best first.

    \b
    Example:
      mtrec-edge tune recipes/own-data.toml --data work/own-data --out work/own-tune --trials 10
    """
    from mtrec_edge_compress.tune import tune as run_tune

    found = run_tune(
        recipe,
        data=data,
        out=out,
        encoder=encoder,
        device=device,
        trials=trials,
        overrides=overrides,
        progress=not quiet,
    )
    if as_json:
        print_json(found.as_json())
    else:
        print_table(*found.table())
    if not quiet:
        click.echo(f"the best recipe: mtrec-edge compress {found.best_recipe} --data {data} --out BUNDLE", err=True)


@click.command()
@recipe_argument
@prepared_option
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the trainings and control.json.")
@encoder_option
@device_option
@click.option("--teacher", type=click.Path(path_type=Path), help="Trained multi-task checkpoint: skips training one.")
@click.option("--tasks", metavar="A,B", default="", help="Compare these tasks only; default: all.")
@overrides_option
@json_option
@quiet_option
def control(
    recipe: Path,
    data: Path,
    out: Path,
    encoder: str | None,
    device: Literal["auto", "cpu", "cuda"],
    teacher: Path | None,
    tasks: str,
    overrides: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Compare the multi-task teacher of RECIPE with one teacher a task.

    Trains the same model with the same settings on each task alone, judges all on the test fold and prints whether
    learning together helped. Run again after a kill, it goes on where it was.

    \b
    Example:
      mtrec-edge control recipes/quickstart.toml --data work/quickstart/data --out work/quickstart/control
    """
    from accelerate import PartialState

    from mtrec_edge_compress.control import run_control
    from mtrec_edge_compress.control_report import control_result, format_control, write_control
    from mtrec_edge_compress.data.arrays import read_arrays
    from mtrec_edge_compress.recipe_file import read_recipe

    settings = read_recipe(recipe, overrides)
    arrays = read_arrays(data)
    found = run_control(
        settings,
        arrays,
        out=out,
        encoder=encoder,
        teacher=teacher,
        tasks=parse_names(tasks),
        device=device,
        progress=not quiet,
    )
    if not PartialState().is_main_process:  # of several, one speaks
        return
    result = control_result(found, settings, arrays, command=["mtrec-edge", *sys.argv[1:]])
    write_control(out / "control.json", found, result)
    if as_json:
        print_json(result)
    else:
        click.echo(format_control(found))
