"""The settings of one run: frozen dataclasses read from TOML. An unknown key is an error that names the known ones."""

import math
import tomllib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from mtrec_edge_runtime.errors import RecipeError

Weighting = Literal["static", "uncertainty", "dwa", "gradnorm", "pcgrad"]  # see weighting.py


@dataclass(frozen=True)
class Model:
    """Sizes that teacher and student share."""

    vector_size: int = 128  # D, length of an item vector
    max_tokens: int = 64  # a text is cut there, in training and on the device
    max_history: int = 50  # latest events the user encoder reads
    user_heads: int = 4  # attention heads of the user encoder
    task_hidden: int = 32  # hidden units of each pairwise task's head
    dropout: float = 0.1

    def __post_init__(self) -> None:
        """Refuse sizes the device could not serve."""
        _within("model.vector_size", self.vector_size, 8, 1024)
        _within("model.max_tokens", self.max_tokens, 8, 512)
        _within("model.max_history", self.max_history, 1, 500)
        _within("model.user_heads", self.user_heads, 1, 64)
        _within("model.task_hidden", self.task_hidden, 1, 1024)
        _within("model.dropout", self.dropout, 0.0, 0.9)


@dataclass(frozen=True)
class Training:
    """One run of the training loop."""

    epochs: int = 3
    users: int = 64  # windows (a user's history and targets) a step
    domain_temperature: float = (
        1.0  # a domain's share of the steps goes with windows^(1 / this); above 1 helps small ones
    )
    targets: int = 8  # events of a window that are scored
    negatives: int = 128  # sampled unobserved items a step, shared by its users
    fresh_targets: int = 1  # targets of a window encoded with gradients, and that share of the negatives; else cached
    texts: int = 32  # labelled texts a step, for the text tasks
    prior_dropout: float = 0.1  # share of candidates shown without priors and affinity, as an unseen item is
    link_dropout: float = 0.1  # share of windows shown without any affinity, as where users did little together
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 5e-5  # of the text backbone
    head_learning_rate: float = 1e-3  # of everything else
    weight_decay: float = 0.01
    warmup: float = 0.1  # share of all steps
    clip: float = 1.0  # greatest gradient norm
    accumulation: int = 1  # steps whose gradients are added before an update
    patience: int = 2  # epochs without a better validation before stopping
    task_patience: int = 0  # the same for a task by its own headline, which then weighs 0; 0: no task stops alone
    weighting: Weighting = "static"  # of the teacher; weighting.py says what each does, pcgrad needs the extra mtl
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where the hardware has it
    trackers: tuple[str, ...] = ()  # "tensorboard", "wandb": Accelerate's trackers
    save_minutes: float = 3.0  # at most this much work is lost by a kill

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        for name in ("epochs", "users", "targets", "negatives", "texts", "accumulation", "patience"):
            _within(name, getattr(self, name), 1, 1_000_000)
        _within("domain_temperature", self.domain_temperature, 0.1, 1000.0)
        _within("task_patience", self.task_patience, 0, 1_000_000)
        _within("fresh_targets", self.fresh_targets, 0, self.targets)
        for name in ("learning_rate", "head_learning_rate", "clip"):
            _within(name, getattr(self, name), 1e-9, 1e3)
        for name in ("prior_dropout", "link_dropout", "warmup"):
            _within(name, getattr(self, name), 0.0, 1.0)
        for tracker in self.trackers:
            if tracker not in ("tensorboard", "wandb"):
                raise RecipeError(f"tracker {tracker!r} is unknown; write tensorboard or wandb")


@dataclass(frozen=True)
class Collaborate:
    """Stage 2: item-to-item weights from what users did together."""

    links: int = 10  # of an item on average, 3 bytes each in the bundle; 0 leaves collaboration out
    penalties: tuple[float, ...] = (20.0, 50.0, 200.0, 600.0)  # of EASE; the best on VALIDATION is taken
    parts: int = 4  # of the users: training looks at weights fitted without the user's part
    tuning_users: int = 600  # validation users a penalty is judged on

    def __post_init__(self) -> None:
        """Refuse settings that cannot be fitted."""
        _within("collaborate.links", self.links, 0, 1000)
        _within("collaborate.parts", self.parts, 2, 100)
        _within("collaborate.tuning_users", self.tuning_users, 1, 1_000_000)
        if not self.penalties or any(not isinstance(p, int | float) or p <= 0 for p in self.penalties):
            raise RecipeError(f"collaborate.penalties = {self.penalties}: write at least one number above 0")


@dataclass(frozen=True)
class Teacher:
    """Stage 3: the BERT that learns the tasks."""

    encoder: str = ""  # hub id or folder of a transformers encoder; "" makes a small random BERT (synthetic data)
    layers: int = 4  # of the random BERT
    hidden_size: int = 128  # of the random BERT
    vocabulary: int = 4000  # of the random BERT
    alignment: float = 1.0  # weight of drawing items together that the same users liked; 0 leaves it out
    detached: tuple[str, ...] = ()  # tasks that teach their heads alone, not the text encoder
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        """Refuse a random BERT that cannot be built."""
        _within("teacher.layers", self.layers, 1, 48)
        _within("teacher.alignment", self.alignment, 0.0, 1000.0)
        _within("teacher.hidden_size", self.hidden_size, 32, 4096)
        _within("teacher.vocabulary", self.vocabulary, 50, 1_000_000)
        if self.hidden_size % 32:
            raise RecipeError(f"teacher.hidden_size = {self.hidden_size}: write a multiple of 32, the size of a head")


@dataclass(frozen=True)
class Student:
    """The small model's start."""

    encoder: str = ""  # start from this BertModel's layers; "" takes the trained teacher's
    layers: int = 3  # how many layers are kept, spread evenly from first to last
    embedding_size: int = 128  # E of the factorised word table; 0 keeps the hidden size
    vocabulary: int = 16_000  # most tokens kept of the teacher's vocabulary
    min_count: int = 1  # a token seen less often than this in the dataset's texts is dropped
    dropout: float = 0.1

    def __post_init__(self) -> None:
        """Refuse a student that cannot be built."""
        _within("student.layers", self.layers, 1, 48)
        _within("student.vocabulary", self.vocabulary, 200, 1_000_000)
        _within("student.dropout", self.dropout, 0.0, 0.9)


@dataclass(frozen=True)
class Distill:
    """Stage 4: first match the teacher's vectors on every text, then its task outputs."""

    represent: Training = field(default_factory=Training)  # texts only
    tasks: Training = field(default_factory=Training)  # texts and pairs
    vector_weight: float = 10.0  # of 1 - cosine(student vector, teacher vector)
    soft_weight: float = 0.7  # share of each task's loss taken against the teacher's outputs; the rest is gold
    temperature: float = 2.0  # of multiclass and token soft targets

    def __post_init__(self) -> None:
        """Refuse impossible weights."""
        _within("distill.soft_weight", self.soft_weight, 0.0, 1.0)
        _within("distill.temperature", self.temperature, 0.1, 100.0)


@dataclass(frozen=True)
class Prune:
    """Stage 5: heads and feed-forward units removed in rounds, each followed by healing; the tasks learn last."""

    heads: float = 0.25  # share of all attention heads removed in the end
    units: float = 0.25  # share of all feed-forward units removed in the end
    rounds: int = 3
    importance_steps: int = 20  # batches whose gradients make the importance
    heal: Training = field(default_factory=Training)  # texts only, after each round
    tasks: Training = field(default_factory=Training)  # texts and pairs, after the last

    def __post_init__(self) -> None:
        """Refuse to remove everything."""
        _within("prune.heads", self.heads, 0.0, 0.9)
        _within("prune.units", self.units, 0.0, 0.95)
        _within("prune.rounds", self.rounds, 1, 100)


@dataclass(frozen=True)
class Quantize:
    """Stage 7."""

    reduce_range: bool = True  # weights small enough that a CPU without VNNI cannot overflow
    word_bits: Literal[8, 4] = 8  # of each number of the word table
    fp32_budget_bytes: int = 0  # that may be spent on products left in FP32, the most sensitive first; 0: none
    max_cosine_error: float = 0.0  # nothing more is spent once the item vector's mean 1 - cosine to FP32 is not above
    candidates: bool = False  # ship the graph that is fastest on this machine; the same recipe may then give others

    def __post_init__(self) -> None:
        """Refuse budgets that cannot be kept."""
        _within("quantize.fp32_budget_bytes", self.fp32_budget_bytes, 0, 1 << 30)
        _within("quantize.max_cosine_error", self.max_cosine_error, 0.0, 1.0)


@dataclass(frozen=True)
class Verify:
    """Stage 8: what must hold for the bundle to be certified."""

    fp32_max_abs: float = 1e-4  # torch against FP32 ONNX, greatest absolute difference
    task_loss: float = 0.01  # greatest relative loss of a task's headline metric, FP32 to INT8; see verify.py
    label_agreement: float = 0.97  # least share of a text task's labels that are the same in FP32 and INT8
    retention: float = 0.95  # least share of the teacher's headline metric the pruned student keeps on each task
    top10_overlap: float = 0.9  # mean over histories, FP32 against INT8
    kendall_tau: float = 0.95  # likewise, over the whole pool
    pool: int = 500  # candidates ranked

    def __post_init__(self) -> None:
        """Refuse limits that judge nothing."""
        _within("verify.pool", self.pool, 10, 1_000_000)


@dataclass(frozen=True)
class Evaluation:
    """How much of the test fold a stage's row in the ledger is measured on."""

    users_per_domain: int = 1000  # seeded sample of users a domain; 0 takes all
    validation_users: int = 200  # likewise, for early stopping


@dataclass(frozen=True)
class Bundle:
    """Stage 9."""

    catalogue: Literal["teacher", "student"] = "teacher"  # whose vectors known items get


@dataclass(frozen=True)
class Span:
    """Which values `tune` may give one setting: all from low to high, or one of some choices."""

    low: float = 0.0
    high: float = 0.0
    step: float = 0.0  # 0: every number; of a whole-numbered setting 0 is 1
    log: bool = False  # draw evenly on a logarithmic scale
    choices: tuple[str | bool | int | float, ...] = ()  # instead of low and high

    def check(self, name: str) -> None:
        """Refuse a span that no value can be drawn from; `name` is said in the error."""
        if self.choices:
            if (self.low, self.high, self.step, self.log) != (0.0, 0.0, 0.0, False):
                raise RecipeError(f"{name}: write choices, or low and high, not both")
            if any(not isinstance(value, str | bool | int | float) for value in self.choices):
                raise RecipeError(f"{name}: choices = {list(self.choices)}: write numbers, strings or booleans")
            return
        if not self.low < self.high or not math.isfinite(self.high - self.low):
            raise RecipeError(f"{name}: low = {self.low}, high = {self.high}: write low below high, or choices")
        if self.log and (self.low <= 0 or self.step):
            raise RecipeError(f"{name}: log = true wants low above 0 and no step")
        if self.step < 0 or (self.step and not self._on_step(self.high)):
            raise RecipeError(f"{name}: step = {self.step} does not lead from {self.low} to {self.high}")

    def holds(self, value: object) -> bool:
        """Return whether a setting may have this value."""
        if self.choices:
            return value in self.choices
        assert isinstance(value, int | float)
        return self.low <= value <= self.high and (not self.step or self._on_step(value))

    def _on_step(self, value: float) -> bool:
        steps = (value - self.low) / self.step
        return math.isclose(steps, round(steps), abs_tol=1e-9)


def _default_search() -> dict[str, Span]:
    return {
        "teacher.training.learning_rate": Span(low=1e-5, high=1e-3, log=True),
        "teacher.training.head_learning_rate": Span(low=3e-4, high=1e-2, log=True),
        "teacher.training.prior_dropout": Span(low=0.0, high=0.5),
        "teacher.alignment": Span(low=0.25, high=16.0, log=True),
        "model.dropout": Span(low=0.0, high=0.3),
    }


@dataclass(frozen=True)
class Tune:
    """What `mtrec-edge tune` searches for the teacher; `compress` does not look at it."""

    trials: int = 20
    search: dict[str, Span] = field(default_factory=_default_search)  # dotted key -> its values

    def __post_init__(self) -> None:
        """Refuse to search what the teacher is not made of, or what it is judged by."""
        _within("tune.trials", self.trials, 1, 100_000)
        if not self.search:
            raise RecipeError("tune.search is empty: write at least one setting, or leave the table out")
        for key, span in self.search.items():
            if key.split(".")[0] not in SEARCHED:
                raise RecipeError(f"tune.search.{key}: the teacher depends on the settings under {', '.join(SEARCHED)}")
            span.check(f"tune.search.{key}")


SEARCHED = ("model", "weights", "collaborate", "teacher")


@dataclass(frozen=True)
class Recipe:
    """One run of `mtrec-edge compress`."""

    name: str = "recipe"
    seed: int = 0
    model: Model = field(default_factory=Model)
    weights: dict[str, float] = field(default_factory=dict)  # task -> lambda, over the dataset's own
    collaborate: Collaborate = field(default_factory=Collaborate)
    teacher: Teacher = field(default_factory=Teacher)
    student: Student = field(default_factory=Student)
    distill: Distill = field(default_factory=Distill)
    prune: Prune = field(default_factory=Prune)
    quantize: Quantize = field(default_factory=Quantize)
    verify: Verify = field(default_factory=Verify)
    evaluation: Evaluation = field(default_factory=Evaluation)
    bundle: Bundle = field(default_factory=Bundle)
    tune: Tune = field(default_factory=Tune)


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise RecipeError(f"{name} = {value}: write a number from {low} to {high}")


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
    """Return the settings that a tree of values states; what is to be searched is tried out, too."""
    recipe = _read(Recipe, tree, "")
    assert isinstance(recipe, Recipe)
    for key in recipe.tune.search:
        _try_out(tree, recipe, key)
    return recipe


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
    for table in ("weights.", "tune.search."):
        if key.startswith(table):
            return [*table.split(".")[:-1], key.removeprefix(table)]
    return key.split(".")


def _override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {override!r}: write it as key=value, e.g. --set student.layers=2")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string
    try:
        _put(tree, key, value)
    except RecipeError as error:
        raise RecipeError(f"--set {override!r}: {error}") from error


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
    origin, choices = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value not in choices:
            raise RecipeError(f"{where} = {value!r}: choose one of {', '.join(map(repr, choices))}")
        return value
    if origin is tuple and isinstance(value, list):
        return tuple(value)
    if origin is dict and isinstance(value, dict):
        return {key: _value(choices[1], inner, f"{where}.{key}") for key, inner in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = origin or hint
    if isinstance(plain, UnionType) or not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
        raise RecipeError(
            f"{where} = {value!r}: expected {getattr(hint, '__name__', hint)}, got {type(value).__name__}"
        )
    return value
