"""`mtrec-edge quickstart`: the synthetic world through every stage, then a ranking by the bundle it made."""

from dataclasses import replace
from pathlib import Path

from mtrec_edge_compress.data.arrays import Arrays, read_arrays
from mtrec_edge_compress.data.schema import Fold
from mtrec_edge_compress.data.synthetic import make_world
from mtrec_edge_compress.pipeline import Result, run
from mtrec_edge_compress.run_options import RunOptions
from mtrec_edge_runtime.history import Event
from mtrec_edge_runtime.recommender import Recommender

RECIPE = Path(__file__).with_name("quickstart.toml")


def quickstart(out: Path, *, seed: int = 0, progress: bool = True) -> Result:
    """Make `out/data`, run the quickstart recipe into `out/bundle`, and rank for one user.

    Nothing is downloaded. A killed run goes on where it stopped.
    """
    dataset, _ = make_world(seed)
    dataset.write(out / "data")
    result = run(
        RECIPE,
        data=out / "data",
        out=out / "bundle",
        options=RunOptions(device="cpu", work=out / "work", progress=progress),
        overrides=[f"seed={seed}"],
    )
    return replace(result, example_text=_example(out / "bundle", read_arrays(out / "data")))


def _example(bundle: Path, arrays: Arrays) -> str:
    """Return one user's history and what the bundle ranks first for it, as text."""
    task = next(task for task in arrays.tasks if task.negatives)
    span = arrays.domains[task.domain]
    user = next(u for u in range(len(arrays.user_ids)) if _inside(arrays, u, span) >= 5)
    past = arrays.history(user, Fold.TEST)
    mine = [n for n, item in enumerate(past.items) if span.start <= item < span.stop][:5][::-1]
    titles = dict(zip(arrays.item_ids[span], arrays.item_texts[span], strict=True))
    history = [Event(item=arrays.item_ids[past.items[n]]) for n in mine]
    ranked = Recommender(bundle).rank(history, task=task.name, k=5)
    lines = [f"A user of the {task.domain} whose latest items are:"]
    lines += [f"  {event.item}  {titles[str(event.item)][:60]}" for event in history]
    lines += [f"is offered, by {task.name}, on the device:"]
    lines += [
        f"  {number}. {row.item}  {row.score:+.2f}  {titles[row.item][:60]}" for number, row in enumerate(ranked, 1)
    ]
    return "\n".join(lines)


def _inside(arrays: Arrays, user: int, span: slice) -> int:
    items = arrays.history(user, Fold.TEST).items
    return int(((items >= span.start) & (items < span.stop)).sum())
