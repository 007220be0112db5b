"""Commands that need the toolkit (torch): quickstart, prepare, tune, control, evaluate.

Each imports the toolkit in its body; without the extra `compress` the door says how to install it.
"""

import sys
from pathlib import Path
from typing import Literal

import click

from mtrec_edge.cli_text import json_option, parse_names, print_json, print_table, profile_option, quiet_option

recipe_argument = click.argument("recipe", type=click.Path(path_type=Path))
prepared_option = click.option(
    "--data", type=click.Path(path_type=Path), required=True, help="Dataset folder written by `prepare`."
)
encoder_option = click.option(
    "--encoder", help="BERT-family encoder of the teacher: a folder or a hub id; default: the recipe's."
)
device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Where to train."
)
overrides_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a value of the recipe, e.g. --set teacher.training.epochs=2; may repeat.",
)


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("work/quickstart"),
    show_default=True,
    help="Folder for the dataset, the stages and the bundle.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the synthetic world and of training.")
@json_option
@quiet_option
def quickstart(out: Path, seed: int, as_json: bool, quiet: bool) -> None:
    """Take a synthetic three-domain world through every stage to a bundle.

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
    tell_report(result.report, quiet)
    exit_unless_certified(result.certified, result.reasons)


@click.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    required=True,
    metavar="NAME",
    help="Format of the SOURCE at the same place: table, movielens, goodbooks, lastfm, queryner; may repeat.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Dataset folder to write.")
@click.option(
    "--key",
    "key_file",
    type=click.Path(path_type=Path),
    help="Key file of the user pseudonyms, made when missing; default: OUT.key. Keep it apart.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the split and of sampling users.")
@click.option(
    "--sample-users",
    "samples",
    multiple=True,
    metavar="NAME=N",
    help="Keep N users, drawn at random, of the source with this adapter; may repeat.",
)
@click.option(
    "--split",
    "events_by",
    type=click.Choice(["user", "time"]),
    default="user",
    show_default=True,
    help="Split events 80/10/10 by time within each user, or at one moment for all.",
)
@click.option(
    "--few-events",
    "few",
    multiple=True,
    metavar="DOMAIN=N",
    help="Keep N training events of a domain, drawn at random: what do the other domains teach? May repeat.",
)
@json_option
@quiet_option
def prepare(
    sources: tuple[Path, ...],
    adapters: tuple[str, ...],
    out: Path,
    key_file: Path | None,
    seed: int,
    samples: tuple[str, ...],
    events_by: Literal["user", "time"],
    few: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Make one clean, private, split dataset of one or several sources.

    Each SOURCE is a folder (for the adapter table: one with a mapping.toml) and has its --adapter. Prints the data
    report, which is also saved in OUT.

    \b
    Example:
      mtrec-edge prepare examples/own-data --adapter table --out work/own-data
    """
    from dataclasses import asdict

    from mtrec_edge_compress.data.prepare import prepare as run_prepare

    if len(sources) != len(adapters):
        raise click.UsageError(f"give one --adapter a SOURCE: {len(sources)} sources, {len(adapters)} adapters")
    report = run_prepare(
        list(zip(adapters, sources, strict=True)),
        out,
        key_file=key_file,
        seed=seed,
        sample_users=dict(_count("--sample-users", text, "goodbooks=5000") for text in samples),
        events_by=events_by,
        few_events=dict(_count("--few-events", text, "books=1000") for text in few),
        progress=None if quiet else lambda line: click.echo(line, err=True),
    )
    if as_json:
        print_json(asdict(report))
    else:
        click.echo(report.text(), nl=False)


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


@click.command()
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Dataset folder the bundle was made of.")
@click.option(
    "--users",
    type=click.IntRange(min=1),
    help="Judge this many users a domain, a seeded sample; default: all.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the sample and of tuning the baselines.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Also write a result file, e.g. benchmarks/results/own-data-systems.json.",
)
@click.option(
    "--domain-out",
    "domain_files",
    multiple=True,
    metavar="DOMAIN=PATH",
    help="Also write a result file of one domain, e.g. movies=benchmarks/results/quality-movies.json; may repeat.",
)
@click.option("--html", type=click.Path(path_type=Path), help="Also write a page with pictures, e.g. work/report.html.")
@profile_option
@json_option
@quiet_option
def evaluate(
    bundles: tuple[Path, ...],
    data: Path,
    users: int | None,
    seed: int,
    out: Path | None,
    domain_files: tuple[str, ...],
    html: Path | None,
    profile: Literal["fast", "exact"],
    as_json: bool,
    quiet: bool,
) -> None:
    """Judge a bundle on the test fold by the full protocol, baselines beside it.

    Several bundles, made by one recipe with several seeds, are judged as one system: the mean over them.

    \b
    Example:
      mtrec-edge evaluate work/quickstart/bundle --data work/quickstart/data
    """
    from mtrec_edge_compress.data.arrays import read_arrays
    from mtrec_edge_compress.systems import evaluate_bundles
    from mtrec_edge_compress.systems_report import write_report
    from mtrec_edge_compress.systems_result import write_domain, write_systems
    from mtrec_edge_compress.systems_table import format_table

    files = dict(_domain_file(text) for text in domain_files)
    arrays = read_arrays(data)
    table = evaluate_bundles(
        bundles,
        arrays,
        profile=profile,
        users_per_domain=users,
        seed=seed,
        progress=lambda line: None if quiet else click.echo(line, err=True),
    )
    if as_json:
        print_json({key: value for key, value in table.items() if key != "per_user"})
    else:
        click.echo(format_table(table))
    command = ["mtrec-edge", *sys.argv[1:]]
    if out is not None:
        write_systems(out, table, arrays, command=command)
    for domain, path in files.items():
        write_domain(path, table, arrays, domain, command=command)
    if html is not None:
        write_report(html, table)


def _count(option: str, text: str, example: str) -> tuple[str, int]:
    name, _, count = text.partition("=")
    if not count.isdecimal() or int(count) < 1:
        raise click.UsageError(f"{option} {text!r}: write it as NAME=N, e.g. {example}")
    return name, int(count)


def _domain_file(text: str) -> tuple[str, Path]:
    domain, _, path = text.partition("=")
    if not domain or not path:
        raise click.UsageError(f"--domain-out {text!r}: write it as DOMAIN=PATH, e.g. movies=work/quality-movies.json")
    return domain, Path(path)


def tell_report(page: Path, quiet: bool) -> None:
    """Say on stderr where the report lies."""
    if not quiet:
        click.echo(f"report: {page}, and {page.with_suffix('.md').name} beside it", err=True)


def exit_unless_certified(certified: bool, reasons: tuple[str, ...]) -> None:
    """Say on stderr why a bundle is not certified, and exit with 1."""
    if certified:
        return
    click.echo("not certified: the bundle misses the limits of its recipe", err=True)
    for reason in reasons:
        click.echo(f"  {reason}", err=True)
    sys.exit(1)
