"""Commands that train teachers alone: tune, control, ablate. They import the toolkit in their bodies."""

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
@click.option(
    "--single-epochs",
    type=click.IntRange(min=1),
    help="Most epochs of a model that learns one task; default: the recipe's. Give more where a domain has few events.",
)
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
    single_epochs: int | None,
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
        single_epochs=single_epochs or 0,
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


@click.command()
@recipe_argument
@prepared_option
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder of the trainings and ablation.json."
)
@click.option(
    "--change",
    "changes",
    multiple=True,
    required=True,
    metavar="KEY=VALUE",
    help="A value of the recipe to be judged, e.g. --change teacher.alignment=0; may repeat, each is tried alone.",
)
@encoder_option
@device_option
@overrides_option
@json_option
@quiet_option
def ablate(
    recipe: Path,
    data: Path,
    out: Path,
    changes: tuple[str, ...],
    encoder: str | None,
    device: Literal["auto", "cpu", "cuda"],
    overrides: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Say what a setting of RECIPE's teacher is worth.

    Trains the teacher as the recipe has it and once more for each --change, judges all on the same users of the test
    fold and prints what each change gains or costs a task, on known and on strict cold items. Run again after a kill,
    or with another --change, it goes on.

    \b
    Example:
      mtrec-edge ablate recipes/quickstart.toml --data work/quickstart/data --out work/ablation --change model.dropout=0
    """
    from accelerate import PartialState

    from mtrec_edge_compress.ablation import run_ablation
    from mtrec_edge_compress.ablation_report import ablation_result, format_ablation, write_ablation
    from mtrec_edge_compress.data.arrays import read_arrays
    from mtrec_edge_compress.recipe_file import read_recipe
    from mtrec_edge_compress.run_options import RunOptions

    settings = read_recipe(recipe, overrides)
    changed = {change: read_recipe(recipe, (*overrides, change)) for change in changes}
    arrays = read_arrays(data)
    options = RunOptions(encoder, device=device, progress=not quiet)
    found = run_ablation(settings, changed, arrays, out=out / "work", options=options)
    if not PartialState().is_main_process:  # of several, one speaks
        return
    result = ablation_result(found, settings, arrays, command=["mtrec-edge", *sys.argv[1:]])
    write_ablation(out / "ablation.json", found, result)
    if as_json:
        print_json(result)
    else:
        click.echo(format_ablation(found))
