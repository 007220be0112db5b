"""How a report looks: facts, verdict and sections as one HTML page, or as Markdown.

A page needs no other file and no network; equal input gives equal bytes. What it is given (names of tasks, reasons) is
text, never markup; pictures alone are taken as they are. Knows nothing of what a report says.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from jinja2 import DictLoader, Environment

from mtrec_edge_runtime.whole_file import write_whole

FRAME = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #22262a; background: #fff; margin: 2rem auto; max-width: 72rem;
  padding: 0 1rem }
h1 { margin-bottom: .3rem } h2 { border-top: 1px solid #d5dade; padding-top: 1rem }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem } figure { margin: 0 } svg { max-width: 100%; height: auto }
pre { overflow-x: auto; font-size: 12px } .note { color: #5a636b; font-size: 13px } code { overflow-wrap: anywhere }
.verdict { border-left: 5px solid #1b6ca8; background: #f3f6f8; padding: .6rem 1rem } .verdict p { margin: 0 }
.missed { border-color: #b3261e } .table { overflow-x: auto }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; margin: .5rem 0 1rem }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #e3e7ea; white-space: nowrap }
th { border-bottom: 1.5px solid #22262a; vertical-align: bottom } tbody tr:hover { background: #f3f6f8 }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
.facts td { text-align: left; white-space: normal; vertical-align: top } .facts td:first-child { white-space: nowrap }
@media print { body { margin: 0; max-width: none; font-size: 11px } h2 { break-after: avoid }
  figure, tr, .verdict { break-inside: avoid } .table { overflow: visible } table { font-size: 9px } }
</style>
<h1>{{ title }}</h1>
{% block content %}{% endblock %}
</html>
"""
PARTS = """{% macro grid(table, kind="") %}<div class="table"><table class="{{ kind }}">
{% if table.head %}<thead><tr>{% for cell in table.head %}<th>{{ cell }}</th>{% endfor %}</tr></thead>{% endif %}
<tbody>{% for row in table.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>{% endmacro %}
{% macro gallery(pictures) %}<div class="pictures">
{% for picture in pictures %}<figure>{{ picture | safe }}</figure>
{% endfor %}</div>{% endmacro %}
{% macro chapters(sections) %}{% for section in sections %}
<h2>{{ section.title }}</h2>
{{ gallery(section.pictures) }}
<p class="note">{{ section.text }}</p>
{% for table in section.tables %}{{ grid(table) }}{% endfor %}
{% endfor %}{% endmacro %}
"""
REPORT = """{% extends "frame" %}{% from "parts" import grid, chapters %}
{% block content %}
<div class="verdict{{ "" if report.certified else " missed" }}"><p><b>{{ report.verdict }}</b> {{ report.summary }}</p>
{% if report.reasons %}<ul>{% for reason in report.reasons %}<li>{{ reason }}</li>{% endfor %}</ul>{% endif %}</div>
{{ grid(report.facts, "facts") }}
{{ chapters(report.sections) }}
{% if report.notes %}<h2>Notes</h2>
<ul class="note">{% for note in report.notes %}<li>{{ note }}</li>{% endfor %}</ul>{% endif %}
{% endblock %}
"""
# a template of its own begins with `{% extends "frame" %}{% from "parts" import grid, gallery, chapters %}`
PAGES = Environment(
    autoescape=True,
    loader=DictLoader({"frame": FRAME, "parts": PARTS, "report": REPORT}),
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Table:
    """A table of text; the first column names the rows."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """Return the table as Markdown, its columns aligned so that it reads as plain text too."""
        lines = [[markdown_text(cell) for cell in line] for line in (self.head, *self.rows)]
        widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(self.head))]
        rule = [("-" * width if n == 0 else "-" * (width - 1) + ":") for n, width in enumerate(widths)]
        return "\n".join(
            "| " + " | ".join(cell.ljust(w) if n == 0 else cell.rjust(w) for n, (cell, w) in enumerate(cells)) + " |"
            for cells in (list(zip(line, widths, strict=True)) for line in (lines[0], rule, *lines[1:]))
        )


def markdown_text(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(text.split()))


def text_bar(share: float, width: int = 20) -> str:
    """Return a bar of `share` (0 to 1) of `width` characters."""
    return "█" * round(share * width)


@dataclass(frozen=True)
class Section:
    """One matter of a report."""

    title: str
    text: str  # how to read it
    tables: tuple[Table, ...]
    pictures: tuple[str, ...] = ()  # SVG; the tables say the same, and Markdown has them alone


@dataclass(frozen=True)
class Report:
    """What a report says."""

    title: str
    certified: bool
    verdict: str  # a sentence
    summary: str  # what was reached, in a sentence
    reasons: tuple[str, ...]  # why it is not certified
    facts: Table  # what was done, with what, where; without a head
    sections: tuple[Section, ...]
    notes: tuple[str, ...] = ()

    def html(self) -> str:
        """Return the report as a page."""
        return PAGES.get_template("report").render(title=self.title, report=self) + "\n"

    def markdown(self) -> str:
        """Return the report as Markdown, without its pictures."""
        parts = [
            f"# {markdown_text(self.title)}",
            f"**{markdown_text(self.verdict)}** {markdown_text(self.summary)}",
            _bullets(self.reasons),
            _bullets(": ".join(row) for row in self.facts.rows),
        ]
        for section in self.sections:
            parts += [f"## {markdown_text(section.title)}", markdown_text(section.text)]
            parts += [table.markdown() for table in section.tables]
        if self.notes:
            parts += ["## Notes", _bullets(self.notes)]
        return "\n\n".join(part for part in parts if part) + "\n"


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"* {markdown_text(line)}" for line in lines)


def write_report(folder: Path, report: Report, name: str = "report") -> None:
    """Write `NAME.html` and `NAME.md` into a folder."""
    write_whole(folder / f"{name}.html", report.html())
    write_whole(folder / f"{name}.md", report.markdown())
