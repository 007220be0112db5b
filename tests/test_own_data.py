"""The way of one's own tables, as README shows it: prepare, compress, rank; every pass cut to one."""

from pathlib import Path

from test_cli import ROOT, answer, run

ONE_PASS = [
    f"--set={table}.epochs=1"
    for table in ("teacher.training", "distill.represent", "distill.tasks", "prune.heal", "prune.tasks")
]
LIMITLESS = [
    f"--set=verify.{limit}"
    for limit in ("retention=-1e6", "task_loss=1e6", "label_agreement=0", "top10_overlap=0", "kendall_tau=-1")
]


def test_ones_own_tables_become_a_bundle_that_ranks(tmp_path: Path) -> None:
    data, bundle = tmp_path / "data", tmp_path / "bundle"
    made = run("prepare", ROOT / "examples" / "own-data", "--adapter", "table", "--out", data, "--quiet")
    assert made.exit_code == 0, made.output
    recipe = ROOT / "recipes" / "own-data.toml"
    done = run("compress", recipe, "--data", data, "--out", bundle, "--device", "cpu", "--quiet", *ONE_PASS, *LIMITLESS)
    assert done.exit_code == 0, done.output
    history = ["--history", "P001", "--history", "P002=5"]
    ranked = answer("rank", bundle, "--task", "shop.like", *history, "-k", "5")
    assert len(ranked) == 5 and not {"P001", "P002"} & {line["item"] for line in ranked}
    assert run("verify", bundle).exit_code == 0
