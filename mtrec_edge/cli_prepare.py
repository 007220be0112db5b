"""The command `prepare`: sources into one dataset. It imports the toolkit in its body."""

from pathlib import Path
from typing import Literal

import click

from mtrec_edge.cli_text import SEED, json_option, print_json, quiet_option


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
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the split and of sampling users.")
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


def _count(option: str, text: str, example: str) -> tuple[str, int]:
    name, _, count = text.partition("=")
    if not count.isdecimal() or int(count) < 1:
        raise click.UsageError(f"{option} {text!r}: write it as NAME=N, e.g. {example}")
    return name, int(count)
