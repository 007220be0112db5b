"""Facts about the command: light help, documented options, clear errors, answers from the tiny bundle."""

import json
import re
import shlex
import subprocess
import sys
from inspect import cleandoc
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from mtrec_edge.cli import COMMANDS, Door, main
from mtrec_edge.cli_compress import budget_overrides
from mtrec_edge_runtime.manifest import read_manifest

ROOT = Path(__file__).resolve().parent.parent
BUNDLE = ROOT / "tests" / "device" / "tiny_bundle"
HELP_RUN = (
    "import sys; sys.argv = ['mtrec-edge', *{arguments!r}]\n"
    "from mtrec_edge.cli import main\n"
    "try: main()\n"
    "except SystemExit: print('MODULES', *sorted({{name.split('.')[0] for name in sys.modules}}))"
)
EVERY_HELP = [[], *([name] for name in COMMANDS)]


def commands() -> dict[str, click.Command]:
    assert isinstance(main, Door)
    context = click.Context(main)
    found = {name: main.get_command(context, name) for name in COMMANDS}
    return {name: command for name, command in found.items() if command is not None}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def answer(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("arguments", EVERY_HELP, ids=lambda arguments: " ".join(arguments) or "all")
def test_help_loads_click_and_the_standard_library_alone(arguments: list[str]) -> None:
    code = HELP_RUN.format(arguments=[*arguments, "--help"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = done.stdout.split("MODULES")[1].split()
    assert "Usage: mtrec-edge" in done.stdout
    strangers = {name for name in modules if not name.startswith("_")} - sys.stdlib_module_names
    assert strangers - {"mtrec_edge", "click", "distutils_precedence"} == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_an_example(name: str) -> None:
    text = cleandoc(commands()[name].help or "")
    assert f"Example:\n  mtrec-edge {name} " in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_documented(name: str) -> None:
    document = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    _, _, rest = document.partition(f"\n## {name}\n")
    section = rest.split("\n## ")[0]
    assert section, f"docs/cli.md has no section '## {name}'"
    for parameter in commands()[name].params:
        if isinstance(parameter, click.Option):
            assert f"`{parameter.opts[0]}" in section, f"docs/cli.md: {name}: {parameter.opts[0]} is not documented"


def written_commands() -> list[str]:
    """Return every command line that README, docs and help texts show."""
    documents = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    texts = [path.read_text(encoding="utf-8").replace("\\\n", " ") for path in documents]
    texts += [command.help or "" for command in commands().values()]
    return [
        line for text in texts for line in re.findall(r"^ {2,}(?:\.venv/bin/)?mtrec-edge ([a-z].*)", text, re.MULTILINE)
    ]


@pytest.mark.parametrize("line", written_commands())
def test_every_command_line_in_the_documents_is_one(line: str) -> None:
    name, *arguments = shlex.split(line)
    commands()[name].make_context(name, arguments)


def test_an_unknown_command_names_itself() -> None:
    result = run("convert")
    assert result.exit_code == 2
    assert "No such command 'convert'" in result.output


def test_a_library_error_is_one_line_and_exit_code_1() -> None:
    result = run("inspect", "nowhere")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: nowhere/manifest.json: no such file")
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("missing", "extra", "arguments"),
    [
        ("torch", "compress", ["quickstart"]),
        ("polars", "compress", ["prepare", "source", "--adapter", "table", "--out", "data"]),
        ("torch", "compress", ["compress", "recipe.toml", "--data", "data", "--out", "bundle"]),
        ("optuna", "tune", ["tune", "recipe.toml", "--data", "data", "--out", "search"]),
        ("polars", "compress", ["evaluate", "bundle", "--data", "data"]),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_missing_extra_says_how_to_install_it(missing: str, extra: str, arguments: list[str]) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None\n{HELP_RUN.format(arguments=arguments)}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.endswith(f"needs {missing}, which is not installed: pip install 'mtrec-edge[{extra}]'\n")


def test_prepare_turns_the_example_tables_into_a_dataset_and_keeps_the_key_outside(tmp_path: Path) -> None:
    out = tmp_path / "data"
    result = run("prepare", ROOT / "examples" / "own-data", "--adapter", "table", "--out", out)
    assert result.exit_code == 0, result.output
    assert result.stdout == (out / "data_report.txt").read_text(encoding="utf-8")
    assert "reading" in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"data", "data.key"}


def test_a_path_that_cannot_be_written_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    result = run("prepare", ROOT / "examples" / "own-data", "--adapter", "table", "--out", tmp_path / "file", "--quiet")
    assert result.exit_code == 1
    assert result.stderr == f"Error: {tmp_path / 'file'}: File exists; check path, permissions and space\n"


def test_prepare_wants_one_adapter_a_source() -> None:
    result = run("prepare", "a", "b", "--adapter", "table", "--out", "data")
    assert result.exit_code == 2
    assert "give one --adapter a SOURCE: 2 sources, 1 adapters" in result.output


def test_prepare_names_an_unknown_adapter(tmp_path: Path) -> None:
    result = run("prepare", "a", "--adapter", "tables", "--out", tmp_path / "data")
    assert result.exit_code == 1
    assert "adapter 'tables' is unknown: choose one of table, movielens" in result.stderr


def test_a_share_is_a_percentage_or_a_number() -> None:
    found = budget_overrides(3.2, None, ["movies.like=1.5%", "movies.rating=0.02", "shop.buy=0%"])
    assert found == (
        "budget.max_mb=3.2",
        "budget.max_drop.movies.like=0.015",
        "budget.max_drop.movies.rating=0.02",
        "budget.max_drop.shop.buy=0.0",
    )
    assert budget_overrides(None, 0.5, ()) == ("budget.max_ms=0.5", "prune.max_ms=0.5")


@pytest.mark.parametrize(
    "drop", ["movies.like", "=1%", "movies.like=much", "movies.like=1.5", "movies.like=-1%", "a.b=nan"]
)
def test_a_malformed_share_is_a_usage_error(drop: str) -> None:
    result = run("compress", "recipe.toml", "--data", "data", "--out", "bundle", "--max-drop", drop)
    assert result.exit_code == 2
    assert f"--max-drop {drop!r}: write it as TASK=SHARE, a share from 0 to below 1" in " ".join(result.output.split())


def test_an_unknown_tier_is_one_line_and_exit_code_1() -> None:
    recipe = ROOT / "recipes" / "quickstart.toml"
    result = run("compress", recipe, "--data", "data", "--out", "bundle", "--tiers", "small")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: there is no tier 'small': the recipe has none; the next step")


def test_inspect_shows_tasks_and_files() -> None:
    about = answer("inspect", BUNDLE)
    assert {task["name"] for task in about["tasks"]} == {task.name for task in read_manifest(BUNDLE).tasks}
    assert about["files"]["encoder.bin"] > 0
    assert about["input"]["behaviours"][1] == "movies.rate (with values)" and about["input"]["max_history"] == 4
    shown = run("inspect", BUNDLE).stdout
    assert "encoder.bin" in shown and "rate (with values)" in shown
    assert about["safe_without_vnni"] is None and "no VNNI:         not known" in shown


def test_verify_accepts_the_bundle_and_refuses_an_altered_one(tmp_path: Path) -> None:
    assert run("verify", BUNDLE).exit_code == 0
    for path in BUNDLE.rglob("*"):
        copy = tmp_path / path.relative_to(BUNDLE)
        copy.mkdir(parents=True) if path.is_dir() else copy.write_bytes(path.read_bytes())
    data = bytearray((tmp_path / "encoder.bin").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "encoder.bin").write_bytes(data)
    result = run("verify", tmp_path)
    assert result.exit_code == 1
    assert "encoder.bin has SHA-256" in result.stderr
