"""Write a text file whole or not at all: a kill leaves the old one or the new one."""

from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write UTF-8 text to `path`, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
