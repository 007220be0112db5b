"""A recipe whose every stage takes moments, and the folder it is run in."""

from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner
from tiny_models import dataset
from transformers import BertConfig

from mtrec_edge.cli import main
from mtrec_edge_compress.pipeline import CROSS_ENCODER, STAGES, Result, run
from mtrec_edge_compress.reference import make_bert
from mtrec_edge_compress.run_options import RunOptions
from mtrec_edge_compress.tiers import Tiers, run_tiers

SMALL_BERT = BertConfig(hidden_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=100)
NAMES = tuple(name for name, _, _ in STAGES if name not in (CROSS_ENCODER, "heal_int8"))  # which are off
TRAINING = "epochs = 1\nusers = 8\ntargets = 4\nnegatives = 6\ntexts = 8\nprecision = 'fp32'\n"
RECIPE = f"""
name = "tiny"
[model]
vector_size = 16
max_tokens = 16
max_history = 8
task_hidden = 4
[collaborate]
links = 4
parts = 2
penalties = [5, 50]
tuning_users = 12
[teacher]
layers = 2
hidden_size = 64
vocabulary = 400
[teacher.training]
{TRAINING}
[student]
layers = 2
embedding_size = 32
vocabulary = 300
[distill.represent]
{TRAINING}
[distill.tasks]
{TRAINING}
[prune]
heads = 0.5
units = 0.5
rounds = 1
importance_steps = 1
[prune.heal]
{TRAINING}
[prune.tasks]
{TRAINING}
[verify] # an untrained model has nothing to keep
retention = -100.0
task_loss = 100.0
label_agreement = 0.0
top10_overlap = 0.0
kendall_tau = -1.0
pool = 20
"""


@dataclass(frozen=True)
class Place:
    """Where one run reads and writes."""

    folder: Path

    @property
    def work(self) -> Path:
        return self.folder / "work"

    def run(self, *overrides: str, teachers: tuple[Path, ...] = ()) -> Result:
        """Run the tiny recipe here."""
        return run(
            self.folder / "tiny.toml",
            data=self.folder / "data",
            out=self.folder / "bundle",
            options=RunOptions(teachers=teachers, device="cpu", work=self.work, progress=False),
            overrides=overrides,
        )

    def run_tiers(self, *names: str) -> Tiers:
        """Run tiers of the tiny recipe here, over the teacher that is already made."""
        make_bert(self.work / "bert-base.onnx", SMALL_BERT)  # in place of BERT-base, which takes some seconds
        return run_tiers(
            self.folder / "tiny.toml",
            names,
            data=self.folder / "data",
            out=self.folder / "bundles",
            options=RunOptions(device="cpu", work=self.work, progress=False),
        )

    def made(self) -> dict[str, int]:
        """Return when each finished stage was finished, in ns."""
        paths = {name: self.work / name / "stage.json" for name in NAMES}
        return {name: path.stat().st_mtime_ns for name, path in paths.items() if path.is_file()}


def tiny_place(folder: Path) -> Path:
    """Write the tiny dataset and recipe there."""
    dataset().write(folder / "data")
    (folder / "tiny.toml").write_text(RECIPE)
    return folder


def run_command(name: str, folder: Path, *more: str) -> str:
    """Run a command that trains teachers of the tiny recipe, and return what it prints."""
    where = ["--data", f"{folder}/data", "--out", f"{folder}/out", "--device", "cpu", "--quiet"]
    done = CliRunner().invoke(main, [name, f"{folder}/tiny.toml", *where, *more])
    assert done.exit_code == 0, done.output
    return done.stdout
