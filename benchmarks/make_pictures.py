"""Draw the pictures of README.md, `docs/pictures/*.svg`, from benchmarks/results/*.json.

A picture states the SHA-256 of the result files it shows; `--check` writes nothing and exits with 1 when one is not up
to date. Matplotlib's versions draw different bytes, so the bytes are not compared.
"""

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mtrec_edge_compress.pictures import INK, OURS, THEIRS, figure_svg
from mtrec_edge_compress.tiers_report import pareto_picture
from mtrec_edge_runtime.results import Result, read_result

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PICTURES = Path("benchmarks/results"), Path("docs/pictures")
DOMAINS = {"films": "quality-movielens", "books": "quality-goodbooks", "artists": "quality-lastfm"}
RIVALS = ("popularity", "tf-idf", "bpr", "ials", "item-knn", "ease", "ease-recent")


def ranking(results: Sequence[Result]) -> str:
    """Return bars of NDCG@10, a panel a domain: the bundles' mean and the run's baselines, with 95 % intervals."""

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, len(DOMAINS))
        for axes, domain, result in zip(panels, DOMAINS, results, strict=True):
            axes.set_title(f"{domain}, NDCG@10", loc="left", color=INK)
            _bars(axes, result["systems"])

    return figure_svg("The bundles' mean beside the baselines: NDCG@10 over the whole catalogue", draw, (10.6, 2.9))


def _bars(axes: Axes, systems: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    found = {name: systems[name]["ndcg@10"] for name in (*RIVALS, "fused") if name in systems}
    names = ["mtrec-edge" if name == "fused" else name for name in found]
    colours = [OURS if name == "fused" else THEIRS for name in found]
    axes.barh(names, [figure["value"] for figure in found.values()], color=colours, height=0.7)
    for place, figure in enumerate(found.values()):
        low, high = figure.get("low", figure["value"]), figure.get("high", figure["value"])
        axes.plot([low, high], [place, place], color=INK, linewidth=1)
        axes.annotate(f"{figure['value']:.3f}", (high, place), (4, 0), textcoords="offset points", va="center")
    axes.set_xlim(0, 1.2 * max(figure.get("high", figure["value"]) for figure in found.values()))
    axes.tick_params("y", length=0)


def sizes(results: Sequence[Result]) -> str:
    """Return time against what is kept of the teacher, a dot a tier."""
    return pareto_picture(results[0]["tiers"])


DRAWN: dict[str, tuple[Callable[[Sequence[Result]], str], tuple[str, ...]]] = {
    "ranking": (ranking, tuple(DOMAINS.values())),
    "tiers": (sizes, ("tiers",)),
}


def main(arguments: Sequence[str]) -> int:
    """Draw what is not up to date, or with `--check` say which pictures are not."""
    stale = []
    for name, (draw, shown) in DRAWN.items():
        files = [ROOT / RESULTS / f"{result}.json" for result in shown]
        if missing := [file.name for file in files if not file.exists()]:
            print(f"picture {name}: not yet measured, {missing[0]} does not exist", file=sys.stderr)
            continue
        origin = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
        picture, comment = ROOT / PICTURES / f"{name}.svg", f"<!-- of {', '.join(shown)}: {origin} -->"
        if picture.exists() and comment in picture.read_text(encoding="utf-8"):
            continue
        stale.append(name)
        if "--check" not in arguments:
            picture.parent.mkdir(exist_ok=True)
            picture.write_text(draw([read_result(file) for file in files]) + comment + "\n", encoding="utf-8")
    if stale and "--check" in arguments:
        print(f"pictures are out of date: {', '.join(stale)}: run make tables", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
