"""The options of the commands that train: the recipe, the dataset, the encoder, the device."""

from pathlib import Path

import click

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
