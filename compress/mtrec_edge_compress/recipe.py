"""The settings of one run as frozen dataclasses, each checked as it is made. recipe_file.py reads them from TOML.

Those of the training loop, which a recipe holds several times, are in training_settings.py.
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from mtrec_edge_compress.span import Span, within
from mtrec_edge_compress.training_settings import Training
from mtrec_edge_runtime.errors import RecipeError


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
        within("model.vector_size", self.vector_size, 8, 1024)
        within("model.max_tokens", self.max_tokens, 8, 512)
        within("model.max_history", self.max_history, 1, 500)
        within("model.user_heads", self.user_heads, 1, 64)
        within("model.task_hidden", self.task_hidden, 1, 1024)
        within("model.dropout", self.dropout, 0.0, 0.9)


@dataclass(frozen=True)
class Collaborate:
    """`collaborate`: item-to-item weights from what users did together."""

    links: int = 10  # of an item on average, 3 bytes each in the bundle; 0 leaves collaboration out
    penalties: tuple[float, ...] = (20.0, 50.0, 200.0, 600.0)  # of EASE; the best on VALIDATION is taken
    parts: int = 4  # of the users: training looks at weights fitted without the user's part
    tuning_users: int = 600  # validation users a penalty is judged on

    def __post_init__(self) -> None:
        """Refuse settings that cannot be fitted."""
        within("collaborate.links", self.links, 0, 1000)
        within("collaborate.parts", self.parts, 2, 100)
        within("collaborate.tuning_users", self.tuning_users, 1, 1_000_000)
        if not self.penalties or any(not isinstance(p, int | float) or p <= 0 for p in self.penalties):
            raise RecipeError(f"collaborate.penalties = {self.penalties}: write at least one number above 0")


@dataclass(frozen=True)
class Teacher:
    """`teacher`: the BERT that learns the tasks."""

    encoder: str = ""  # hub id or folder of a transformers encoder; "" makes a small random BERT (synthetic data)
    layers: int = 4  # of the random BERT
    hidden_size: int = 128  # of the random BERT
    vocabulary: int = 4000  # of the random BERT
    frozen_layers: int = 0  # the word table and this many first layers stay as pretrained: less time, fewer to overfit
    alignment: float = 1.0  # weight of drawing items together that the same users liked; 0 leaves it out
    detached: tuple[str, ...] = ()  # tasks that teach their heads alone, not the text encoder
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        """Refuse a random BERT that cannot be built."""
        within("teacher.layers", self.layers, 1, 48)
        within("teacher.frozen_layers", self.frozen_layers, 0, 48)
        within("teacher.alignment", self.alignment, 0.0, 1000.0)
        within("teacher.hidden_size", self.hidden_size, 32, 4096)
        within("teacher.vocabulary", self.vocabulary, 50, 1_000_000)
        if self.hidden_size % 32:
            raise RecipeError(f"teacher.hidden_size = {self.hidden_size}: write a multiple of 32, the size of a head")


@dataclass(frozen=True)
class CrossEncoder:
    """`cross_encoder`: a second teacher that reads the user's latest texts and the candidate's in one sequence."""

    windows: int = 0  # training windows whose scores are kept for distillation; 0: there is no cross-encoder
    share: float = 0.5  # weight of those scores' loss beside the tasks' own; 0: it is only compared
    events: int = 5  # latest events whose texts it reads
    max_tokens: int = 128  # of a sequence
    targets: int = 4  # events of a window that are scored
    negatives: int = 4  # sampled unobserved items of each window, too
    candidates: int = 50  # sampled items each held-out positive is compared among
    steps: int = 500  # of its fine-tuning
    users: int = 8  # windows a step
    learning_rate: float = 5e-5
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    def __post_init__(self) -> None:
        """Refuse a cross-encoder that reads or learns nothing."""
        within("cross_encoder.windows", self.windows, 0, 10_000_000)
        within("cross_encoder.share", self.share, 0.0, 1000.0)
        within("cross_encoder.max_tokens", self.max_tokens, 16, 512)
        within("cross_encoder.events", self.events, 1, self.max_tokens // 4 - 2)  # room for words of each
        for name in ("targets", "negatives", "candidates", "steps", "users"):
            within(f"cross_encoder.{name}", getattr(self, name), 1, 1_000_000)
        within("cross_encoder.learning_rate", self.learning_rate, 1e-9, 1e3)

    @property
    def training(self) -> Training:
        """Return what the training loop asks for; how many steps there are is for the batches to say."""
        return Training(
            epochs=1,
            users=self.users,
            targets=self.targets,
            negatives=self.negatives,
            learning_rate=self.learning_rate,
            precision=self.precision,
        )


@dataclass(frozen=True)
class Student:
    """The small model's start."""

    start: Literal["layers", "outputs"] = "layers"  # the teacher's layers, or its output for each token
    encoder: str = ""  # start from this BertModel's layers; "" takes the trained teacher's
    layers: int = 3  # how many layers are kept, spread evenly from first to last; from outputs: how many are new
    hidden_size: int = 0  # from outputs: width of the states; 0 is the teacher's
    heads: int = 0  # attention heads a layer, the best of the teacher's by importance; 0 keeps all, from outputs 3
    units: int = 0  # feed-forward units a layer, likewise; from outputs 0 is 192
    embedding_size: int = 128  # E of the factorised word table; 0 keeps the hidden size
    vocabulary: int = 16_000  # most tokens kept of the teacher's vocabulary
    min_count: int = 1  # a token seen less often than this in the dataset's texts is dropped
    dropout: float = 0.1

    def __post_init__(self) -> None:
        """Refuse a student that cannot be built."""
        within("student.layers", self.layers, 1 if self.start == "layers" else 0, 48)
        within("student.hidden_size", self.hidden_size, 0, 4096)
        if self.hidden_size and self.start == "layers":
            raise RecipeError("student.hidden_size: the teacher's layers keep its width; write start = 'outputs', or 0")
        within("student.heads", self.heads, 0, 64)
        within("student.units", self.units, 0, 16_384)
        within("student.vocabulary", self.vocabulary, 200, 1_000_000)
        within("student.dropout", self.dropout, 0.0, 0.9)


@dataclass(frozen=True)
class Augment:
    """`augment`: texts beyond the corpus that the student reads, with the teacher's word alone."""

    crossed: float = 1.0  # made of halves of two texts, for each readable text
    unlabelled: tuple[str, ...] = ()  # files of unlabelled text, one a line, .txt or .txt.gz
    most_unlabelled: int = 50_000  # of them, drawn at random

    def __post_init__(self) -> None:
        """Refuse impossible numbers."""
        within("augment.crossed", self.crossed, 0.0, 100.0)
        within("augment.most_unlabelled", self.most_unlabelled, 0, 10_000_000)


@dataclass(frozen=True)
class Distill:
    """`distill`: first match the teacher's vectors on every text, then its task outputs."""

    represent: Training = field(default_factory=Training)  # texts only
    tasks: Training = field(default_factory=Training)  # texts and pairs
    vector_weight: float = 10.0  # of 1 - cosine(student vector, teacher vector)
    relation_weight: float = 0.0  # first phase: of the query, key and value relations of the last layers (MiniLMv2)
    hidden_weight: float = 0.0  # first phase: of the squared error of the last states, mapped to the teacher's width
    soft_weight: float = 0.7  # share of each task's loss taken against the teacher's outputs; the rest is gold
    annealed: float = 0.0  # share of soft_weight that goes over to gold by the end of a phase with pairs
    temperature: float = 2.0  # of multiclass and token soft targets

    def __post_init__(self) -> None:
        """Refuse impossible weights."""
        within("distill.soft_weight", self.soft_weight, 0.0, 1.0)
        within("distill.annealed", self.annealed, 0.0, 1.0)
        within("distill.temperature", self.temperature, 0.1, 100.0)


@dataclass(frozen=True)
class Prune:
    """`prune`: heads and feed-forward units removed in rounds, each followed by healing; the tasks learn last."""

    heads: float = 0.25  # share of all attention heads removed in the end
    units: float = 0.25  # share of all feed-forward units removed in the end
    max_ms: float = 0.0  # remove more, until 32 tokens are predicted to take at most this, by a table measured here
    rounds: int = 3
    importance_steps: int = 20  # batches whose gradients make the importance
    heal: Training = field(default_factory=Training)  # texts only, after each round
    tasks: Training = field(default_factory=Training)  # texts and pairs, after the last

    def __post_init__(self) -> None:
        """Refuse to remove everything."""
        within("prune.heads", self.heads, 0.0, 0.9)
        within("prune.units", self.units, 0.0, 0.95)
        within("prune.max_ms", self.max_ms, 0.0, 10_000.0)
        within("prune.rounds", self.rounds, 1, 100)


@dataclass(frozen=True)
class Untaught:
    """`untaught`: the same student without a teacher, for comparison."""

    compare: bool = False  # whether to train it
    training: Training = field(default_factory=Training)


@dataclass(frozen=True)
class Heal:
    """`heal_int8`: training with INT8's rounding, where INT8 loses more than `verify` allows on the validation fold."""

    epochs: int = 0  # 0: the stage is left out
    learning_rate: float = 0.0  # of the text backbone; 0 is that of prune.tasks, as all other settings of training are
    head_learning_rate: float = 0.0  # of everything else, likewise

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        within("quantize.heal.epochs", self.epochs, 0, 1_000_000)
        for name in ("learning_rate", "head_learning_rate"):
            within(f"quantize.heal.{name}", getattr(self, name), 0.0, 1e3)

    def training(self, tasks: Training) -> Training:
        """Return the settings of training; `tasks` are those of `prune.tasks`."""
        return replace(
            tasks,
            epochs=self.epochs,
            learning_rate=self.learning_rate or tasks.learning_rate,
            head_learning_rate=self.head_learning_rate or tasks.head_learning_rate,
        )


@dataclass(frozen=True)
class Quantize:
    """`quantize`."""

    reduce_range: bool = True  # weights small enough that a CPU without VNNI cannot overflow
    word_bits: Literal[8, 4] = 8  # of each number of the word table
    fp32_budget_bytes: int = 0  # that may be spent on products left in FP32, the most sensitive first; 0: none
    max_cosine_error: float = 0.0  # nothing more is spent once the item vector's mean 1 - cosine to FP32 is not above
    candidates: bool = False  # ship the graph that is fastest on this machine; the same recipe may then give others
    heal: Heal = field(default_factory=Heal)

    def __post_init__(self) -> None:
        """Refuse budgets that cannot be kept."""
        within("quantize.fp32_budget_bytes", self.fp32_budget_bytes, 0, 1 << 30)
        within("quantize.max_cosine_error", self.max_cosine_error, 0.0, 1.0)


@dataclass(frozen=True)
class Verify:
    """`verify`: what must hold for the bundle to be certified."""

    fp32_max_abs: float = 1e-4  # torch against FP32 ONNX, greatest absolute difference
    task_loss: float = 0.01  # greatest relative loss of a task's headline metric, FP32 to INT8; see verify.py
    label_agreement: float = 0.97  # least share of a text task's labels that are the same in FP32 and INT8
    retention: float = 0.95  # least share of the teacher's headline metric the pruned student keeps on each task
    top10_overlap: float = 0.9  # mean over histories, FP32 against INT8
    kendall_tau: float = 0.95  # likewise, over the whole pool
    pool: int = 500  # candidates ranked

    def __post_init__(self) -> None:
        """Refuse limits that judge nothing."""
        within("verify.pool", self.pool, 10, 1_000_000)


@dataclass(frozen=True)
class Budget:
    """What the shipped student may weigh, take and lose; 0 or empty: no limit. budget.py judges it."""

    max_mb: float = 0.0  # million bytes of all files of the bundle but the catalogue
    max_ms: float = 0.0  # profile fast, one text of 32 tokens, p50
    min_speedup: float = 0.0  # times faster than BERT-base in FP32, see reference.py
    max_drop: dict[str, float] = field(default_factory=dict)  # task -> greatest share of the teacher's headline lost
    retention_mean: float = 0.0  # least share of the teacher's headlines kept, over all tasks ...
    retention_worst: float = 0.0  # ... and on each; both for known items and for unseen texts apart, see unseen.py

    def __post_init__(self) -> None:
        """Refuse limits that nothing can keep."""
        for name in ("max_mb", "max_ms", "min_speedup"):
            within(f"budget.{name}", getattr(self, name), 0.0, 1e6)
        for name in ("retention_mean", "retention_worst"):
            within(f"budget.{name}", getattr(self, name), 0.0, 1.0)
        for task, share in self.max_drop.items():
            within(f"budget.max_drop.{task}", share, 0.0, 1.0)


@dataclass(frozen=True)
class Evaluation:
    """How much of the test fold a stage's row in the ledger is measured on."""

    users_per_domain: int = 1000  # seeded sample of users a domain; 0 takes all
    validation_users: int = 200  # likewise, for early stopping


@dataclass(frozen=True)
class Bundle:
    """`bundle`."""

    catalogue: Literal["teacher", "student"] = "teacher"  # whose vectors known items get


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
        within("tune.trials", self.trials, 1, 100_000)
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
    augment: Augment = field(default_factory=Augment)
    cross_encoder: CrossEncoder = field(default_factory=CrossEncoder)
    student: Student = field(default_factory=Student)
    distill: Distill = field(default_factory=Distill)
    prune: Prune = field(default_factory=Prune)
    untaught: Untaught = field(default_factory=Untaught)
    quantize: Quantize = field(default_factory=Quantize)
    verify: Verify = field(default_factory=Verify)
    evaluation: Evaluation = field(default_factory=Evaluation)
    bundle: Bundle = field(default_factory=Bundle)
    budget: Budget = field(default_factory=Budget)
    tiers: dict[str, dict[str, Any]] = field(default_factory=dict)  # name -> settings over these, for compress --tiers
    tune: Tune = field(default_factory=Tune)


def settings_of(recipe: Recipe, key: str) -> Any:
    """Return the settings under a top-level key, as what a stage's outcome depends on.

    `heal` is a key of its own, with the limits that decide whether it is needed, and no part of `quantize`: where it is
    off, nothing depends on it.
    """
    stored = asdict(recipe)
    healing = stored["quantize"].pop("heal")
    if key == "heal":
        limits = {name: stored["verify"][name] for name in ("task_loss", "label_agreement")}
        return {**healing, **limits, "catalogue": recipe.bundle.catalogue}
    return stored[key]
