"""Commands about a bundle itself: inspect, verify, bench. They need numpy and onnxruntime, `--html` the toolkit."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mtrec_edge.cli_text import bundle_argument, json_option, print_json, print_table, quiet_option

if TYPE_CHECKING:
    from mtrec_edge_runtime.manifest import Manifest

SAFETY = {  # what is said of CPUs without VNNI
    True: "safe: no INT8 product can overflow",
    False: "an INT8 product can overflow; use profile exact",
    None: "not known",
}


@click.command()
@bundle_argument
@json_option
def inspect(bundle: Path, as_json: bool) -> None:
    """Show what a bundle holds: tasks, domains, files, quality, and whether it is certified.

    \b
    Example:
      mtrec-edge inspect work/quickstart/bundle
    """
    from mtrec_edge_runtime.manifest import read_manifest

    manifest = read_manifest(bundle, verify=False)
    about = _about(manifest)
    if as_json:
        print_json(about)
        return
    lines = {name: about[name] for name in ("name", "created", "catalogue", "size_bytes")}
    for name, value in manifest.data.items():
        lines[f"data {name}"] = "; ".join(map(str, value)) if isinstance(value, list) else value
    lines["no VNNI"] = SAFETY[manifest.onnx.safe_without_vnni]
    lines["no history"] = "answered" if manifest.input.no_history else "refused"
    for name, value in (lines | {"certified": "yes" if manifest.certified else "no"}).items():
        click.echo(f"{name + ':':16} {value}".rstrip())
    for reason in manifest.reasons:
        click.echo(f"  {reason}")
    click.echo()
    known = about["input"]["behaviours"]
    domains = [
        (name, size, ", ".join(b.removeprefix(f"{name}.") for b in known if b.startswith(f"{name}.")))
        for name, size in about["domains"].items()
    ]
    print_table(["domain", "items", "behaviours"], domains)
    click.echo()
    tasks = [
        (t.name, str(t.kind), len(t.labels) or "", _numbers(manifest.quality.get(t.name, {}))) for t in manifest.tasks
    ]
    print_table(["task", "kind", "labels", "quality"], tasks)
    click.echo()
    print_table(["file", "bytes"], [(name, entry.size) for name, entry in manifest.files.items()])


@click.command()
@bundle_argument
@json_option
def verify(bundle: Path, as_json: bool) -> None:
    """Check every file's hash and the bundle's own golden answers on this device.

    Exits with 1 and the reason when a file was altered or an answer differs.

    \b
    Example:
      mtrec-edge verify work/quickstart/bundle
    """
    from mtrec_edge_runtime.errors import BundleError
    from mtrec_edge_runtime.golden import check_golden
    from mtrec_edge_runtime.manifest import read_manifest

    manifest = read_manifest(bundle, verify=True)
    failures = check_golden(bundle)
    if as_json:
        print_json({"name": manifest.name, "files": sorted(manifest.files), "failures": failures})
    elif not failures:
        click.echo(f"{bundle}: {len(manifest.files)} files as the manifest says, every golden answer matches")
    if failures:
        raise BundleError(f"{bundle}: {len(failures)} golden answers differ on this device: " + "; ".join(failures[:5]))


@click.command()
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--against",
    multiple=True,
    metavar="ONNX",
    type=click.Path(path_type=Path),
    help="Another ONNX encoder, measured interleaved with each bundle, e.g. the teacher's; may repeat.",
)
@click.option(
    "--tokens",
    multiple=True,
    type=click.IntRange(3, 512),
    help="Measure texts of this length only; may repeat; default: the protocol's 8, 16, 32, 64 and 128.",
)
@click.option("--quick", is_flag=True, help="A few samples a cell, to see that it works; publish no such figure.")
@click.option(
    "--json",
    "json_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write the result, and its raw samples beside it, instead of printing a table.",
)
@click.option(
    "--html",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Also write a page with pictures, e.g. work/bench.html; this alone needs the extra compress.",
)
@quiet_option
def bench(
    bundles: tuple[Path, ...],
    against: tuple[Path, ...],
    tokens: tuple[int, ...],
    quick: bool,
    json_file: Path | None,
    html: Path | None,
    quiet: bool,
) -> None:
    """Measure latency, cold start and memory on this device, each cell in a fresh process.

    The protocol is benchmarks/README.md's: about a quarter of an hour a bundle, a few seconds with --quick.

    \b
    Example:
      mtrec-edge bench work/quickstart/bundle --quick
    """
    from dataclasses import replace

    from mtrec_edge_runtime.bench import bench as run_bench
    from mtrec_edge_runtime.bench import write_bench
    from mtrec_edge_runtime.bench_plan import QUICK, Protocol

    if html is not None:  # what it needs is asked for before a quarter of an hour is spent
        from mtrec_edge_compress.bench_report import write_bench_report
    protocol = QUICK if quick else Protocol()
    result = run_bench(
        bundles,
        against=against,
        protocol=replace(protocol, tokens=tokens or protocol.tokens),
        command=("mtrec-edge", *sys.argv[1:]),
        tell=lambda line: None if quiet else click.echo(line, err=True),
    )
    if json_file is None:
        _print_cells(result["cells"])
    else:
        write_bench(json_file, result)
    if html is not None:
        write_bench_report(html, result)


def _print_cells(cells: list[dict[str, Any]]) -> None:
    rows = []
    for cell in cells:
        sized = f" {cell['batch']} x {cell['tokens']}" if cell["kind"] in ("encode", "against") else ""
        what = f"{cell['kind']}{sized} {cell.get('domain', '')}".strip()
        for phase, times in cell.get("phases", {}).items():
            own = cell.get("own_core", {}).get("phases", {}).get(phase, {})
            numbers = [times[name] for name in ("p50", "p90", "p95")] + [own.get("p50", "")]
            rows.append((cell["name"], what, cell["profile"], cell["threads"], phase, *numbers))
        for part, size in cell.get("resident_bytes", {}).items():
            rows.append((cell["name"], what, cell["profile"], cell["threads"], f"{part} MB", size / 1e6, "", "", ""))
    print_table(["bundle", "cell", "profile", "threads", "phase", "p50 ms", "p90", "p95", "p50, own core"], rows)


def _about(manifest: "Manifest") -> dict[str, Any]:
    return {
        "name": manifest.name,
        "created": manifest.created,
        "certified": manifest.certified,
        "reasons": list(manifest.reasons),
        "catalogue": f"vectors of the {manifest.catalogue}",
        "size_bytes": sum(entry.size for entry in manifest.files.values()),
        "safe_without_vnni": manifest.onnx.safe_without_vnni,
        "data": dict(manifest.data),
        "domains": {name: end - start for name, (start, end) in manifest.domains.items()},
        "input": {
            "max_tokens": manifest.input.max_tokens,
            "max_history": manifest.input.max_history,
            "no_history": manifest.input.no_history,
            "behaviours": [f"{b.domain}.{b.name}{' (with values)' * b.valued}" for b in manifest.input.behaviours],
        },
        "tasks": [{"name": t.name, "kind": str(t.kind), "labels": list(t.labels)} for t in manifest.tasks],
        "quality": {task: dict(metrics) for task, metrics in manifest.quality.items()},
        "stages": [dict(stage) for stage in manifest.stages],
        "files": {name: entry.size for name, entry in manifest.files.items()},
    }


def _numbers(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())
