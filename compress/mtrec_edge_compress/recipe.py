"""The settings of one run as frozen dataclasses, each checked as it is made. recipe_file.py reads them from TOML.

Those of the training loop, which a recipe holds several times, are in training_settings.py.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

from mtrec_edge_compress.span import Count, Positive, Ranged, Share, Span, within
from mtrec_edge_compress.training_settings import Training, only_static
from mtrec_edge_runtime.errors import RecipeError


@dataclass(frozen=True)
class Model(Ranged):
    """Sizes that teacher and student share."""

    table = "model."
    vector_size: Annotated[int, 8, 1024] = 128  # D, length of an item vector
    max_tokens: Annotated[int, 8, 512] = 64  # a text is cut there, in training and on the device
    max_history: Annotated[int, 1, 500] = 50  # latest events the user encoder reads
    user_heads: Annotated[int, 1, 64] = 4  # attention heads of the user encoder
    task_hidden: Annotated[int, 1, 1024] = 32  # hidden units of each pairwise task's head
    dropout: Annotated[float, 0.0, 0.9] = 0.1


@dataclass(frozen=True)
class Collaborate(Ranged):
    """`collaborate`: item-to-item weights from what users did together."""

    table = "collaborate."
    links: Annotated[int, 0, 1000] = 10  # of an item on average, 3 bytes each in the bundle; 0 leaves collaboration out
    penalties: tuple[float, ...] = (20.0, 50.0, 200.0, 600.0)  # of EASE; the best on VALIDATION is taken
    parts: Annotated[int, 2, 100] = 4  # of the users: training looks at weights fitted without the user's part
    tuning_users: Count = 600  # validation users a penalty is judged on

    def __post_init__(self) -> None:
        """Refuse settings that cannot be fitted."""
        super().__post_init__()
        if not self.penalties or any(not isinstance(p, int | float) or p <= 0 for p in self.penalties):
            raise RecipeError(f"collaborate.penalties = {self.penalties}: write at least one number above 0")


@dataclass(frozen=True)
class Teacher(Ranged):
    """`teacher`: the BERT that learns the tasks."""

    table = "teacher."
    encoder: str = ""  # hub id or folder of a transformers encoder; "" makes a small random BERT (synthetic data)
    layers: Annotated[int, 1, 48] = 4  # of the random BERT
    hidden_size: Annotated[int, 32, 4096] = 128  # of the random BERT
    vocabulary: Annotated[int, 50, 1_000_000] = 4000  # of the random BERT
    frozen_layers: Annotated[int, 0, 48] = 0  # these and the word table stay as pretrained: less time, fewer to overfit
    alignment: Annotated[float, 0.0, 1000.0] = 1.0  # weight of drawing together what the same users liked; 0: none
    unread: Share = 0.0  # of the items: neither it nor a student reads their texts, both rank them as unseen items
    detached: tuple[str, ...] = ()  # tasks that teach their heads alone, not the text encoder
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        """Refuse a random BERT that cannot be built."""
        super().__post_init__()
        if self.hidden_size % 32:
            raise RecipeError(f"teacher.hidden_size = {self.hidden_size}: write a multiple of 32, the size of a head")


@dataclass(frozen=True)
class CrossEncoder(Ranged):
    """`cross_encoder`: a second teacher that reads the user's latest texts and the candidate's in one sequence."""

    table = "cross_encoder."
    windows: Annotated[int, 0, 10_000_000] = 0  # of training, scored for distillation; 0: there is no cross-encoder
    share: Annotated[float, 0.0, 1000.0] = 0.5  # of those scores' loss beside the tasks' own; 0: it is only compared
    events: int = 5  # latest events whose texts it reads
    max_tokens: Annotated[int, 16, 512] = 128  # of a sequence
    targets: Count = 4  # events of a window that are scored
    negatives: Count = 4  # sampled unobserved items of each window, too
    candidates: Count = 50  # sampled items each held-out positive is compared among
    steps: Count = 500  # of its fine-tuning
    users: Count = 8  # windows a step
    learning_rate: Annotated[float, 1e-9, 1e3] = 5e-5
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    def __post_init__(self) -> None:
        """Refuse a cross-encoder that reads or learns nothing."""
        super().__post_init__()
        within("cross_encoder.events", self.events, 1, self.max_tokens // 4 - 2)  # room for words of each

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
class Student(Ranged):
    """The small model's start."""

    table = "student."
    start: Literal["layers", "outputs"] = "layers"  # the teacher's layers, or its output for each token
    encoder: str = ""  # start from this BertModel's layers; "" takes the trained teacher's
    layers: int = 3  # how many layers are kept, spread evenly from first to last; from outputs: how many are new
    hidden_size: Annotated[int, 0, 4096] = 0  # from outputs: width of the states; 0 is the teacher's
    heads: Annotated[int, 0, 64] = 0  # a layer, the best of the teacher's by importance; 0 keeps all, from outputs 3
    units: Annotated[int, 0, 16_384] = 0  # feed-forward units a layer, likewise; from outputs 0 is 192
    embedding_size: Annotated[int, 0, 4096] = 128  # E of the factorised word table; 0 keeps the hidden size
    vocabulary: Annotated[int, 200, 1_000_000] = 16_000  # most tokens kept of the teacher's vocabulary
    token_window: Annotated[int, 1, 15] = 1  # token states a token head reads: a token's own between its neighbours'
    min_count: Annotated[int, 1, 1_000_000_000] = 1  # a token seen less often in the dataset's texts is dropped
    dropout: Annotated[float, 0.0, 0.9] = 0.1

    def __post_init__(self) -> None:
        """Refuse a student that cannot be built."""
        super().__post_init__()
        if self.token_window % 2 == 0:
            raise RecipeError(f"student.token_window = {self.token_window}: it is odd, a token between its neighbours")
        within("student.layers", self.layers, 1 if self.start == "layers" else 0, 48)
        if self.hidden_size and self.start == "layers":
            raise RecipeError("student.hidden_size: the teacher's layers keep its width; write start = 'outputs', or 0")


@dataclass(frozen=True)
class Augment(Ranged):
    """`augment`: texts beyond the corpus that the student reads, with the teacher's word alone."""

    table = "augment."
    crossed: Annotated[float, 0.0, 100.0] = 1.0  # made of halves of two texts, for each readable text
    unlabelled: tuple[str, ...] = ()  # files of unlabelled text, one a line, .txt or .txt.gz
    most_unlabelled: Annotated[int, 0, 10_000_000] = 50_000  # of them, drawn at random


@dataclass(frozen=True)
class Distill(Ranged):
    """`distill`: first match the teacher's vectors on every text, then its task outputs."""

    table = "distill."
    represent: Training = field(default_factory=Training)  # texts only
    tasks: Training = field(default_factory=Training)  # texts and pairs
    vector_weight: Positive = 10.0  # of 1 - cosine(student vector, teacher vector)
    relation_weight: Positive = 0.0  # first phase: of the query, key and value relations of the last layers (MiniLMv2)
    hidden_weight: Positive = 0.0  # first phase: of the squared error of the last states, mapped to the teacher's width
    soft_weight: Share = 0.7  # share of each task's loss taken against the teacher's outputs; the rest is gold
    annealed: Share = 0.0  # share of soft_weight that goes over to gold by the end of a phase with pairs
    own_windows: Share = 0.0  # share of a step's windows read in the student's own vectors, made once a pass
    temperature: Annotated[float, 0.1, 100.0] = 2.0  # of multiclass and token soft targets

    def __post_init__(self) -> None:
        """Refuse what no phase of a student reads."""
        super().__post_init__()
        only_static("distill.represent", self.represent)
        only_static("distill.tasks", self.tasks)


@dataclass(frozen=True)
class Prune(Ranged):
    """`prune`: heads and feed-forward units removed in rounds, each followed by healing; the tasks learn last."""

    table = "prune."
    heads: Annotated[float, 0.0, 0.9] = 0.25  # share of all attention heads removed in the end
    units: Annotated[float, 0.0, 0.95] = 0.25  # share of all feed-forward units removed in the end
    embedding_size: Annotated[int, 0, 4096] = 0  # words are factorised to this many numbers first; 0 leaves them
    max_ms: Annotated[float, 0.0, 10_000.0] = 0.0  # remove more, until 32 tokens take this by a table measured here
    rounds: Annotated[int, 1, 100] = 3
    importance_steps: Count = 20  # batches whose gradients make the importance
    heal: Training = field(default_factory=Training)  # texts only, after each round
    heal_texts: Annotated[float, 0.001, 1.0] = 1.0  # share of the texts that a pass of healing reads, drawn at random
    tasks: Training = field(default_factory=Training)  # texts and pairs, after the last

    def __post_init__(self) -> None:
        """Refuse what no phase of a student reads."""
        super().__post_init__()
        only_static("prune.heal", self.heal)
        only_static("prune.tasks", self.tasks)


@dataclass(frozen=True)
class Untaught:
    """`untaught`: the same student without a teacher, for comparison."""

    compare: bool = False  # whether to train it
    training: Training = field(default_factory=Training)


@dataclass(frozen=True)
class Heal(Ranged):
    """`heal_int8`: training with INT8's rounding, where INT8 loses more than `verify` allows on the validation fold."""

    table = "quantize.heal."
    epochs: Annotated[int, 0, 1_000_000] = 0  # 0: the stage is left out
    learning_rate: Positive = 0.0  # of the text backbone; 0 is that of prune.tasks, as every other setting is
    head_learning_rate: Positive = 0.0  # of everything else, likewise

    def training(self, tasks: Training) -> Training:
        """Return the settings of training; `tasks` are those of `prune.tasks`."""
        return replace(
            tasks,
            epochs=self.epochs,
            learning_rate=self.learning_rate or tasks.learning_rate,
            head_learning_rate=self.head_learning_rate or tasks.head_learning_rate,
        )


@dataclass(frozen=True)
class Quantize(Ranged):
    """`quantize`."""

    table = "quantize."
    reduce_range: bool = True  # weights small enough that a CPU without VNNI cannot overflow
    word_bits: Literal[8, 4, 2] = 8  # of each number of the word table; fewer are rounded while `prune` heals
    fp32_budget_bytes: Annotated[int, 0, 1 << 30] = 0  # to spend on products left in FP32, the most sensitive first
    max_cosine_error: Share = 0.0  # nothing more is spent once the item vector's mean 1 - cosine to FP32 is not above
    candidates: bool = False  # ship the graph that is fastest on this machine; the same recipe may then give others
    heal: Heal = field(default_factory=Heal)


@dataclass(frozen=True)
class Verify(Ranged):
    """`verify`: what must hold for the bundle to be certified."""

    table = "verify."
    fp32_max_abs: Positive = 1e-4  # torch against FP32 ONNX, greatest absolute difference
    task_loss: Positive = 0.01  # greatest relative loss of a task's headline metric, FP32 to INT8; see verify.py
    label_agreement: Positive = 0.97  # least share of a text task's labels that are the same in FP32 and INT8
    retention: Annotated[float, -1e6, 1.0] = 0.95  # least share of the teacher's headline that is kept on each task
    top10_overlap: Positive = 0.9  # mean over histories, FP32 against INT8
    kendall_tau: Annotated[float, -1.0, 1.0] = 0.95  # likewise, over the whole pool
    pool: Annotated[int, 10, 1_000_000] = 500  # candidates ranked


@dataclass(frozen=True)
class Budget(Ranged):
    """What the shipped student may weigh, take and lose; 0 or empty: no limit. budget.py judges it."""

    table = "budget."
    max_mb: Positive = 0.0  # million bytes of all files of the bundle but the catalogue
    max_ms: Positive = 0.0  # profile fast, one text of 32 tokens, p50
    min_speedup: Positive = 0.0  # times faster than BERT-base in FP32, see reference.py
    max_drop: dict[str, float] = field(default_factory=dict)  # task -> greatest share of the teacher's headline lost
    retention_mean: Share = 0.0  # least share of the teacher's headlines kept, over all tasks ...
    retention_worst: Share = 0.0  # ... and on each; both for known items and for unseen texts apart, see unseen.py

    def __post_init__(self) -> None:
        """Refuse limits that nothing can keep."""
        super().__post_init__()
        for task, share in self.max_drop.items():
            within(f"budget.max_drop.{task}", share, 0.0, 1.0)


@dataclass(frozen=True)
class Evaluation(Ranged):
    """How much of the test fold a stage's row in the ledger is measured on."""

    table = "evaluation."
    users_per_domain: Annotated[int, 0, 1_000_000_000] = 1000  # seeded sample of users a domain; 0 takes all
    validation_users: Annotated[int, 0, 1_000_000_000] = 200  # likewise, for early stopping


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
class Tune(Ranged):
    """What `mtrec-edge tune` searches for the teacher; `compress` does not look at it."""

    table = "tune."
    trials: Annotated[int, 1, 100_000] = 20
    search: dict[str, Span] = field(default_factory=_default_search)  # dotted key -> its values

    def __post_init__(self) -> None:
        """Refuse to search what the teacher is not made of, or what it is judged by."""
        super().__post_init__()
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

    def __post_init__(self) -> None:
        """Refuse a seed no generator takes, and words that cannot be packed, before anything is trained."""
        within("seed", self.seed, 0, 2**32 - 1)
        a_byte = 8 // self.quantize.word_bits
        for size in (self.student.embedding_size or self.student.hidden_size, self.prune.embedding_size):
            if size % a_byte:  # either may ship, for pruning may be undone
                raise RecipeError(
                    f"embedding_size = {size}: with quantize.word_bits = {self.quantize.word_bits} a byte holds "
                    f"{a_byte} numbers of a word; write a multiple of {a_byte}"
                )


BOOKKEEPING = ("save_minutes", "trackers")  # of a training


def without_keys(tree: Any, keys: Collection[str]) -> Any:
    """Return nested settings without these keys, wherever they stand."""
    if not isinstance(tree, dict):
        return tree
    return {key: without_keys(value, keys) for key, value in tree.items() if key not in keys}


def settings_of(recipe: Recipe, key: str) -> Any:
    """Return the settings under a top-level key, as what a stage's outcome depends on.

    How often a training is saved and who is told of it change nothing, so they are no part of it.
    `heal` is a key of its own, with the limits that decide whether it is needed, and no part of `quantize`: where it is
    off, nothing depends on it; nor on a window of one token, on no own windows, nor on words that stay as wide as they
    are. `prune` heals around words of few bits.
    """
    stored = without_keys(asdict(recipe), BOOKKEEPING)
    if recipe.quantize.word_bits != 8:
        stored["prune"]["word_bits"] = recipe.quantize.word_bits
    if not recipe.prune.embedding_size:
        del stored["prune"]["embedding_size"]
    if recipe.student.token_window == 1:
        del stored["student"]["token_window"]
    if not recipe.distill.own_windows:
        del stored["distill"]["own_windows"]
    healing = stored["quantize"].pop("heal")
    if key == "heal":
        limits = {name: stored["verify"][name] for name in ("task_loss", "label_agreement")}
        return {**healing, **limits, "catalogue": recipe.bundle.catalogue}
    return stored[key]
