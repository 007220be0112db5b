"""Read a recipe: TOML and overrides -> settings (recipe.py). An unknown key is an error that names the known ones."""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from mtrec_edge_compress.recipe import Recipe
from mtrec_edge_runtime.errors import RecipeError

NAMES_WITH_DOTS = ("weights.", "tune.search.", "budget.max_drop.")  # tables whose keys are tasks or dotted settings
OF_ALL_TIERS = (
    "name",
    "seed",
    "model",
    "weights",
    "collaborate",
    "teacher",
    "augment",
    "cross_encoder",
    "evaluation",
    "tune",
    "tiers",
)


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a TOML recipe, then apply overrides such as `teacher.training.epochs=1`.

    Raises:
        RecipeError: the file is missing or no TOML, a key is unknown (the known ones are named), a value is of the
            wrong type or out of range.
    """
    return make_recipe(read_tree(path, overrides))


def read_tree(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the values that a recipe states, overrides applied, as TOML has them; `make_recipe` checks them."""
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(
            f"there is no recipe {path}; the next step: give the path of a .toml, e.g. recipes/quickstart.toml"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not TOML: {error}") from error
    for override in overrides:
        _override(tree, override)
    return tree


def make_recipe(tree: dict[str, Any]) -> Recipe:
    """Return the settings that a tree of values states; what is to be searched, and each tier, is tried out, too."""
    recipe = _read(Recipe, tree, "")
    assert isinstance(recipe, Recipe)
    for key in recipe.tune.search:
        _try_out(tree, recipe, key)
    for name in recipe.tiers:
        _tier(tree, name, ())
    return recipe


def read_tiers(path: Path, names: Sequence[str], overrides: Sequence[str] = ()) -> dict[str, Recipe]:
    """Return the recipe of each named tier: the recipe, the tier's own settings over it, the overrides over both.

    Raises:
        RecipeError: as `read_recipe`, or for a tier that the recipe does not have.
    """
    tree = read_tree(path, overrides)
    known = make_recipe(tree).tiers
    for name in names:
        if name not in known:
            has = f"has {', '.join(known)}" if known else f"has none; the next step: write a table [tiers.{name}]"
            raise RecipeError(f"there is no tier {name!r}: the recipe {has}")
    return {name: _tier(tree, name, overrides) for name in names}


def _tier(tree: dict[str, Any], name: str, overrides: Sequence[str]) -> Recipe:
    """Return the settings of one tier; its name is that of the recipe and its own."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise RecipeError(f"tiers.{name}: a tier's folder has its name; write letters, digits, - and _")
    own = dict(_flat(tree["tiers"][name]))
    for key in own:
        if key.split(".")[0] in OF_ALL_TIERS:
            raise RecipeError(f"tiers.{name}.{key}: tiers share it as they share the teacher; set it in the recipe")
    changed = with_settings({key: value for key, value in tree.items() if key != "tiers"}, own)
    for override in overrides:
        if not override.startswith("tiers."):
            _override(changed, override)
    try:
        recipe = _read(Recipe, changed, "")
    except RecipeError as error:
        raise RecipeError(f"tiers.{name}: {error}") from error
    assert isinstance(recipe, Recipe)
    return replace(recipe, name=f"{recipe.name}-{name}")


def _flat(tree: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, object]]:
    """Yield dotted key and value of every value under nested tables."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{where}{key}.")
        else:
            yield where + key, value


def _try_out(tree: dict[str, Any], recipe: Recipe, key: str) -> None:
    """Read the recipe with each choice, or each end, of what is searched."""
    span = recipe.tune.search[key]
    ends: tuple[object, ...] = (span.low, span.high)
    if is_whole(recipe, key):
        if not float(span.step).is_integer():
            raise RecipeError(f"tune.search.{key}: step = {span.step}: write a whole number")
        ends = tuple(int(end) if float(end).is_integer() else end for end in (span.low, span.high))
    for value in span.choices or ends:
        try:
            _read(Recipe, with_settings(tree, {key: value}), "")
        except RecipeError as error:
            raise RecipeError(f"tune.search.{key}: {error}") from error


def with_settings(tree: dict[str, Any], settings: Mapping[str, object]) -> dict[str, Any]:
    """Return a copy of a tree of values with some settings, dotted key -> value, put in."""
    changed = deepcopy(tree)
    for key, value in settings.items():
        _put(changed, key, value)
    return changed


def setting(recipe: Recipe, key: str) -> object:
    """Return a recipe's value of a known dotted key; the weight of a task it does not name is 1."""
    found: Any = recipe
    for name in _names(key):
        found = found.get(name, 1.0) if isinstance(found, dict) else getattr(found, name)
    return found


def is_whole(recipe: Recipe, key: str) -> bool:
    """Return whether a setting is there and a whole number."""
    try:
        return type(setting(recipe, key)) is int
    except AttributeError:
        return False


def _names(key: str) -> list[str]:
    """Split a dotted key; tasks and searched settings have dots in their own names."""
    for table in NAMES_WITH_DOTS:
        before, found, name = key.partition(table)
        if found and (not before or before.startswith("tiers.")):
            return [*(before + table).split(".")[:-1], name]
    return key.split(".")


def _override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"{override!r}: write it as key=value, e.g. teacher.alignment=2")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string
    try:
        _put(tree, key, value)
    except RecipeError as error:
        raise RecipeError(f"{override!r}: {error}") from error


def _put(tree: dict[str, Any], key: str, value: object) -> None:
    *parents, last = _names(key)
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise RecipeError(f"{parent} is a value, not a table")
    tree[last] = value


def _read(kind: type, tree: object, where: str) -> object:
    """Build a settings dataclass from a TOML table."""
    if not isinstance(tree, dict):
        raise RecipeError(f"{where.rstrip('.')} must be a table, got {tree!r}")
    known = {f.name: f for f in fields(kind)}
    hints = get_type_hints(kind)
    for key in tree:
        if key not in known:
            raise RecipeError(
                f"unknown key {where}{key}; the known ones are {', '.join(where + name for name in known)}"
            )
    values = {key: _value(hints[key], value, f"{where}{key}") for key, value in tree.items()}
    missing = [
        f.name for f in known.values() if f.default is MISSING and f.default_factory is MISSING and f.name not in values
    ]
    if missing:
        raise RecipeError(f"{where}{missing[0]} is missing")
    return kind(**values)


def _value(hint: Any, value: object, where: str) -> object:
    """Check one value against its field's type; an int serves as a float, a list as a tuple."""
    if is_dataclass(hint):
        assert isinstance(hint, type)
        return _read(hint, value, where + ".")
    if hint is Any or isinstance(hint, UnionType):  # of a tier, of a search: read as the setting it stands for
        return value
    origin, choices = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value not in choices:
            raise RecipeError(f"{where} = {value!r}: choose one of {', '.join(map(repr, choices))}")
        return value
    if origin is tuple and isinstance(value, list):
        return tuple(_value(choices[0], inner, f"{where}[{number}]") for number, inner in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: _value(choices[1], inner, f"{where}.{key}") for key, inner in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = origin or hint
    if not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
        raise RecipeError(
            f"{where} = {value!r}: expected {getattr(hint, '__name__', hint)}, got {type(value).__name__}"
        )
    return value
