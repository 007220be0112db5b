"""Fill the tree of README.md and docs/architecture.md from the modules' own docstrings, so that it names every file.

Writes between `<!-- tree -->` and `<!-- /tree -->`; `--check` writes nothing and exits with 1 when it is out of date.
"""

import ast
import re
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "architecture.md")
SOURCES = ("mtrec_edge", "compress/mtrec_edge_compress", "runtime/mtrec_edge_runtime", "benchmarks", "docs")
MARKED = re.compile(r"(<!-- tree -->\n).*?(<!-- /tree -->)", re.DOTALL)


def tree(root: Path, sources: Sequence[str]) -> str:
    """Return a code block: a line a folder, a line a module with the first sentence of its docstring."""
    lines = []
    for source in sources:
        for folder in sorted({path.parent for path in (root / source).rglob("*.py")}):
            lines.append(f"{folder.relative_to(root).as_posix()}/")
            modules = sorted(folder.glob("*.py"), key=lambda path: (path.stem != "__init__", path.stem))
            lines += [f"  {path.name:20} {first_sentence(path)}" for path in modules]
    return "\n".join(["```", *lines, "```", ""])


def first_sentence(path: Path) -> str:
    """Return the first sentence of a module's docstring, on one line."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    return re.split(r"(?<=[a-z)`]{2})\. ", paragraph, maxsplit=1)[0].rstrip(".")


def main(arguments: Sequence[str]) -> int:
    """Write the tree, or with `--check` say where it is out of date."""
    made = tree(ROOT, SOURCES)
    stale = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        filled = MARKED.sub(lambda match: match[1] + made + match[2], text)
        if filled != text:
            stale.append(document.name)
            if "--check" not in arguments:
                document.write_text(filled, encoding="utf-8")
    if stale and "--check" in arguments:
        print(f"the tree is out of date in {', '.join(stale)}: run make tables", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
