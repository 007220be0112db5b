"""The mapping file of the `table` adapter: which columns of which files mean what. Read from TOML, checked, no data.

name = "corner-shop"                 # sources of one name share their users
[[items]]   file, domain, id, title, [description, tags, tags_separator, labels = {category = "column"}]
[[events]]  file, domain, user, item, behaviour or behaviour_column, [value, timestamp, timestamp_unit]
[[texts]]   file, domain, text or tokens, [id, separator, labels = {intent = "column"}]
[[tasks]]   as in dataset.toml; `labels` may be left out, the most frequent in the data are then taken
"""

from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from mtrec_edge_compress.data.files import read_toml
from mtrec_edge_runtime.errors import DataError

MAPPING_FILE = "mapping.toml"


@dataclass(frozen=True)
class ItemsTable:
    """One file of items; fields are names of its columns, "" where it has none."""

    file: str
    domain: str
    id: str
    title: str
    description: str = ""
    tags: str = ""
    tags_separator: str = "|"  # between the tags of a CSV cell; lists of JSON Lines and Parquet need none
    labels: dict[str, str] = field(default_factory=dict)  # label column of the dataset -> column of the file

    def __post_init__(self) -> None:
        """Refuse a separator that separates nothing."""
        if not self.tags_separator:
            raise DataError(f"mapping of {self.file}: tags_separator is empty; leave it out for '|'")


@dataclass(frozen=True)
class EventsTable:
    """One file of events; fields are names of its columns, "" where it has none."""

    file: str
    domain: str
    user: str
    item: str
    behaviour: str = ""  # the behaviour itself, when all rows have the same
    behaviour_column: str = ""
    value: str = ""
    timestamp: str = ""  # a number, or ISO 8601 such as 2024-05-01 or 2024-05-01T12:30:00Z (UTC where no zone is given)
    timestamp_unit: Literal["s", "ms"] = "s"  # of numbers

    def __post_init__(self) -> None:
        """Refuse none or two sources of the behaviour, and an unknown unit."""
        if bool(self.behaviour) == bool(self.behaviour_column):
            raise DataError(f"mapping of {self.file}: give either behaviour or behaviour_column")
        if self.timestamp_unit not in ("s", "ms"):
            raise DataError(f"mapping of {self.file}: timestamp_unit {self.timestamp_unit!r} is neither 's' nor 'ms'")


@dataclass(frozen=True)
class TextsTable:
    """One file of texts without a user; fields are names of its columns, "" where it has none."""

    file: str
    domain: str
    text: str = ""
    tokens: str = ""  # words, for token tasks
    id: str = ""  # the row's number when there is none
    separator: str = " "  # between the tokens and between the token labels of a CSV cell
    labels: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse none or two sources of the text, and a separator that separates nothing."""
        if bool(self.text) == bool(self.tokens):
            raise DataError(f"mapping of {self.file}: give either text or tokens")
        if not self.separator:
            raise DataError(f"mapping of {self.file}: separator is empty; leave it out for a space")


@dataclass(frozen=True)
class Mapping:
    """A whole mapping file."""

    name: str
    tasks: tuple[dict[str, Any], ...]  # as written; they become TaskSpec once the labels are known
    items: tuple[ItemsTable, ...] = ()
    events: tuple[EventsTable, ...] = ()
    texts: tuple[TextsTable, ...] = ()
    licence: str = ""


def read_mapping(path: Path) -> Mapping:
    """Read a mapping file; unknown and missing keys are errors that name the known ones."""
    missing = f"{path} does not exist: write a mapping file, see docs/data.md"
    content = read_toml(path, missing=missing, broken="correct that line")
    tables = {"items": ItemsTable, "events": EventsTable, "texts": TextsTable}
    for name, table in tables.items():
        rows = _rows(content, name, path)
        content[name] = tuple(_build(table, row, f"{path}, [[{name}]] {number}") for number, row in enumerate(rows))
    content["tasks"] = tuple(_rows(content, "tasks", path))
    mapping = _build(Mapping, content, str(path))
    if not mapping.tasks or not (mapping.items or mapping.texts):
        raise DataError(f"{path}: needs at least one [[tasks]], and [[items]] or [[texts]]: see docs/data.md")
    return mapping


def _rows(content: dict[str, Any], name: str, path: Path) -> list[dict[str, Any]]:
    rows = content.get(name, [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: {name} is no array of tables: begin each with [[{name}]], in double brackets")
    return rows


_Table = TypeVar("_Table")


def _build(table: type[_Table], row: dict[str, Any], where: str) -> _Table:
    known = {f.name: f for f in fields(table)}  # type: ignore[arg-type]
    for key in row:
        if key not in known:
            raise DataError(f"{where}: unknown key {key!r}, known keys: {', '.join(known)}")
    for key, known_field in known.items():
        optional = known_field.default is not MISSING or known_field.default_factory is not MISSING
        if key not in row and not optional:
            raise DataError(f"{where}: key {key!r} is missing: every such table needs it")
    for key, value in row.items():
        if key == "labels":
            _check_labels(value, where)
        elif not isinstance(value, str | tuple):  # tuples are tables that are built already
            raise DataError(f"{where}: {key} = {value!r}: expected a text, in quotes")
    return table(**row)


def _check_labels(value: object, where: str) -> None:
    named = isinstance(value, dict) and all(isinstance(column, str) for column in value.values())
    if not named:
        raise DataError(f"{where}: labels = {value!r}: write it as {{ name = 'column of the file' }}")
