"""The command `evaluate`: bundles beside baselines. It imports the toolkit in its body."""

import sys
from pathlib import Path
from typing import Literal

import click

from mtrec_edge.cli_text import SEED, json_option, print_json, profile_option, quiet_option


@click.command()
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Dataset folder the bundle was made of.")
@click.option(
    "--users",
    type=click.IntRange(min=1),
    help="Judge this many users a domain, a seeded sample; default: all.",
)
@click.option(
    "--seed",
    type=SEED,
    default=0,
    show_default=True,
    help="Seed of the sample and of tuning the baselines.",
)
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
@click.option(
    "--judged-before",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A result file of this command, of one bundle: its seed counts as if judged again; may repeat.",
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
    judged_before: tuple[Path, ...],
    html: Path | None,
    profile: Literal["fast", "exact"],
    as_json: bool,
    quiet: bool,
) -> None:
    """Judge a bundle on the test fold by the full protocol, baselines beside it.

    Several bundles, made by one recipe with several seeds, are judged as one system: the mean over them. One that was
    judged on the same users before need not be there: --judged-before names what --out wrote of it.

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
    if len(files) < len(domain_files):
        raise click.UsageError("--domain-out: a domain is named twice")
    arrays = read_arrays(data)
    known = dict.fromkeys(task.domain for task in arrays.tasks)
    for domain in files:
        if domain not in known:
            raise click.UsageError(f"--domain-out {domain}: no task is of that domain; there are {', '.join(known)}")
    table = evaluate_bundles(
        bundles,
        arrays,
        profile=profile,
        users_per_domain=users,
        seed=seed,
        judged_before=judged_before,
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


def _domain_file(text: str) -> tuple[str, Path]:
    domain, _, path = text.partition("=")
    if not domain or not path:
        raise click.UsageError(f"--domain-out {text!r}: write it as DOMAIN=PATH, e.g. movies=work/quality-movies.json")
    return domain, Path(path)
