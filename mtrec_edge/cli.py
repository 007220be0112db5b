"""The command `mtrec-edge`: one short command a stage, each a docstring and one library call.

Imports click and the standard library alone, so that `--help` answers at once and without torch; a command imports what
it needs in its body. Results go to stdout, progress and reasons to stderr. The library raises, this module explains.
"""

import sys
from errno import EPIPE
from importlib import import_module

import click

# command -> module that holds it; in the order a newcomer meets them
COMMANDS = {
    "quickstart": "mtrec_edge.cli_compress",
    "prepare": "mtrec_edge.cli_prepare",
    "compress": "mtrec_edge.cli_compress",
    "tune": "mtrec_edge.cli_teacher",
    "control": "mtrec_edge.cli_teacher",
    "ablate": "mtrec_edge.cli_teacher",
    "evaluate": "mtrec_edge.cli_evaluate",
    "score": "mtrec_edge.cli_device",
    "rank": "mtrec_edge.cli_device",
    "explain": "mtrec_edge.cli_device",
    "similar": "mtrec_edge.cli_device",
    "classify": "mtrec_edge.cli_device",
    "tag": "mtrec_edge.cli_device",
    "inspect": "mtrec_edge.cli_bundle",
    "verify": "mtrec_edge.cli_bundle",
    "bench": "mtrec_edge.cli_bundle",
}
EXTRAS = {"optuna": "tune", "tomli_w": "tune"}  # module -> the extra that brings it; of any other: compress


class Door(click.Group):
    """The group of all commands: loads a command's module on use and turns library errors into messages."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of the work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module that holds a command."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(COMMANDS[cmd_name]), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; our errors, the file system's and a missing extra become one line and exit code 1."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            missing = (error.name or "").split(".")[0]
            if missing.startswith("mtrec_edge"):
                raise
            extra = EXTRAS.get(missing, "compress")
            raise click.ClickException(
                f"this command needs {missing}, which is not installed: pip install 'mtrec-edge[{extra}]'"
            ) from error
        except OSError as error:
            if error.errno == EPIPE or error.strerror is None:  # a closed pipe is click's; the other is no file's
                raise
            where = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(f"{where}{error.strerror}; check path, permissions and space") from error
        except Exception as error:
            tree = sys.modules.get("mtrec_edge_runtime.errors")  # when it is not loaded, the error is not ours
            if tree and isinstance(error, tree.MtrecError):
                raise click.ClickException(str(error)) from error
            raise


@click.group(cls=Door, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mtrec-edge", prog_name="mtrec-edge")
def main() -> None:
    """Train a BERT multi-task recommender, compress it, and run it on the device.

    \b
    mtrec-edge quickstart                      a synthetic world through every stage, in minutes
    mtrec-edge prepare examples/own-data --adapter table --out work/own-data
    mtrec-edge compress recipes/own-data.toml --data work/own-data --out work/own-bundle
    mtrec-edge rank work/own-bundle --task shop.like --history P001 --history P002=5 -k 5
    """
