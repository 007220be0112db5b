"""A report as a page and as Markdown: what it is given is text, and a picture's bytes depend on what is drawn alone."""

import re

import pytest

from mtrec_edge_compress.page import Table, markdown_text
from mtrec_edge_compress.pictures import bars, picture

HOSTILE = "<script>alert(1)</script> $\\frac{ --> | `x` 日"


def test_a_markdown_table_is_aligned_and_its_cells_are_text() -> None:
    table = Table(("task", "kept"), (("movies.like", "99.0%"), ("a|b\n<i>", "-")))
    assert table.markdown().splitlines() == [
        "| task        |  kept |",
        "| ----------- | ----: |",
        "| movies.like | 99.0% |",
        "| a\\|b \\<i\\>  |     - |",
    ]


@pytest.mark.parametrize(
    ("text", "shown"), [("a*b*", "a\\*b\\*"), ("[x](y)", "\\[x\\](y)"), ("int8_fast", "int8_fast")]
)
def test_markdown_text_is_shown_as_it_is(text: str, shown: str) -> None:
    assert markdown_text(text) == shown


def test_a_picture_has_no_address_no_date_and_no_markup_of_its_labels() -> None:
    drawn = picture(HOSTILE, lambda axes: bars(axes, [(9 * HOSTILE, 2.0, "2 MB"), ("b", 1.0, "1 MB")]))
    assert drawn.startswith('<svg role="img" aria-label="&lt;script&gt;')
    assert drawn.count("<svg") == 1 and "<script" not in drawn and "<dc:date" not in drawn
    assert not re.search(r'https?:(?!//www\.w3\.org/(2000/svg|1999/xlink)")', drawn)
    assert picture(HOSTILE, lambda axes: bars(axes, [(9 * HOSTILE, 2.0, "2 MB"), ("b", 1.0, "1 MB")])) == drawn
