"""Write tiny_bundle/, the bundle the device tests use: graphs built by hand, so that every right answer is known.

Run `python tests/device/make_tiny_bundle.py` in the development environment (it needs onnx) when the format changes.

Four axes: space, love, magic, colour. A word lies on one axis, an item vector is the unit mean of its words (after one
attention step), the genre is the greatest axis, a user is the weighted mean of the history:
    weight = mask * (1 for view, 2 for rate or read) * (1 + value / 4) * 0.5 ** age
    movies.rating = 3 + 2 u.v    movies.like = 4 u.v + popularity + sum of the events' affinities    books.like = 4 u.v
    books.like.order = 4 u.v + 5 seen, and emma is the only book seen; the temperature of books.like is 2
Three films are linked, in one direction each: alien -> passengers 0.5, hobbit -> star-wars 0.25, титаник -> hobbit
-0.25. An event that is a text and a candidate that is new have no links; nor has the book hobbit. A user without a
history is the vector 0.
"""

import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mtrec_edge_runtime.catalogue import write_catalogue
from mtrec_edge_runtime.golden import write_golden
from mtrec_edge_runtime.history import Event
from mtrec_edge_runtime.manifest import Behaviour, InputContract, Manifest, Onnx, write_manifest
from mtrec_edge_runtime.neighbours import Neighbours, make_neighbours, write_neighbours
from mtrec_edge_runtime.tasks import Kind, Task

WORDS = {
    "space": 0,
    "alien": 0,
    "ship": 0,
    "love": 1,
    "heart": 1,
    "magic": 2,
    "dragon": 2,
    "red": 3,
    "blue": 3,
    "shoes": -1,
}
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!'[]"
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
D = 4
TASKS = (
    Task("movies.rating", Kind.REGRESSION, low=0.5, high=5.0),
    Task("movies.like", Kind.BINARY, ranks=True),
    Task("books.like", Kind.BINARY, ranks=True, temperature=2.0),
    Task("movies.genre", Kind.MULTICLASS, labels=("scifi", "romance", "fantasy")),
    Task("queries.entities", Kind.TOKEN, labels=("O", "B-topic", "B-colour")),
)
OUTPUTS = (*(task.name for task in TASKS if task.pairwise), "books.like.order")
MOVIES = {
    "alien": (1, 0, 0, 0),
    "star-wars": (0.8, 0, 0.6, 0),
    "титаник": (0, 1, 0, 0),
    "hobbit": (0, 0, 1, 0),
    "passengers": (0.6, 0.8, 0, 0),
}
BOOKS = {"dune": (1, 0, 0, 0), "emma": (0, 1, 0, 0), "hobbit": (0, 0, 1, 0)}
POPULARITY = {"alien": 0.0, "star-wars": 0.5, "титаник": 0.25, "hobbit": 0.0, "passengers": 0.0}
USUAL = ("passengers", 1.0)  # the one film that usually gets more than others
LINKS = {("alien", "passengers"): 0.5, ("титаник", "hobbit"): -0.25, ("hobbit", "star-wars"): 0.25}


class Weights:
    """Initializers of both encoder graphs, laid out one after another in encoder.bin."""

    def __init__(self) -> None:
        self.data = b""
        self.tensors: list[TensorProto] = []

    def add(self, name: str, array: np.ndarray) -> None:
        raw = array.tobytes()
        tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "encoder.bin"), ("offset", len(self.data)), ("length", len(raw))):
            tensor.external_data.add(key=key, value=str(value))
        self.tensors.append(tensor)
        self.data += raw.ljust(-(-len(raw) // 64) * 64, b"\0")


def encoder_weights() -> Weights:
    table = np.zeros((len(VOCAB), D), np.int8)
    for row, token in enumerate(VOCAB):
        if (axis := WORDS.get(token, -1)) >= 0:
            table[row, axis] = 127
    weights = Weights()
    weights.add("table", table)
    weights.add("project", np.eye(D, dtype=np.int8) * 127)
    return weights


def matmul(x: str, weight: str, out: str, *, integer: bool) -> list[onnx.NodeProto]:
    """x @ (weight / 127), with dynamic INT8 or with FP32 arithmetic."""
    if not integer:
        return [
            helper.make_node("DequantizeLinear", [weight, "unit"], [f"{out}_w"]),
            helper.make_node("MatMul", [x, f"{out}_w"], [out]),
        ]
    return [
        helper.make_node("DynamicQuantizeLinear", [x], [f"{out}_q", f"{out}_s", f"{out}_z"]),
        helper.make_node("MatMulInteger", [f"{out}_q", weight, f"{out}_z"], [f"{out}_i"]),
        helper.make_node("Cast", [f"{out}_i"], [f"{out}_f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{out}_s", "unit"], [f"{out}_u"]),
        helper.make_node("Mul", [f"{out}_f", f"{out}_u"], [out]),
    ]


def encoder(weights: Weights, *, integer: bool) -> onnx.ModelProto:
    node = helper.make_node
    whole = {"masked": "near", "kept_states": "all_states"}  # without a mask nothing is padding

    def made(name: str) -> str:
        return whole[name] if integer else name

    masks = [
        node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["mask", "one"], ["keys"]),
        node("Sub", ["keys", "1.0"], ["absent"]),
        node("Mul", ["absent", "1e9"], ["bias"]),
        node("Add", ["near", "bias"], ["masked"]),
    ]
    columns = [
        node("Unsqueeze", ["mask", "two"], ["column"]),
        node("Mul", ["all_states", "column"], ["kept_states"]),
    ]
    nodes = [
        node("Gather", ["table", "input_ids"], ["rows"]),
        node("DequantizeLinear", ["rows", "unit"], ["words"]),
        node("Transpose", ["words"], ["turned"], perm=[0, 2, 1]),
        node("MatMul", ["words", "turned"], ["near"]),
        *([] if integer else masks),
        node("Softmax", [made("masked")], ["attention"], axis=-1),
        node("MatMul", ["attention", "words"], ["context"]),
        node("Add", ["words", "context"], ["all_states"]),
        node("Identity", ["words"], ["states"]),  # text heads tag a word by itself
        *([] if integer else columns),
        node("ReduceSum", [made("kept_states"), "one"], ["sum"], keepdims=0),
        *matmul("sum", "project", "pooled", integer=integer),
        node("ReduceL2", ["pooled"], ["length"], axes=[-1], keepdims=1),
        node("Max", ["length", "1e-6"], ["divisor"]),
        node("Div", ["pooled", "divisor"], ["vector"]),
    ]
    ids = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
        for name in (("input_ids",) if integer else ("input_ids", "attention_mask"))
    ]
    outputs = [
        helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["batch", D]),
        helper.make_tensor_value_info("states", TensorProto.FLOAT, ["batch", "tokens", D]),
    ]
    constants = [
        *floats({"unit": np.float32(1 / 127), "1.0": 1.0, "1e9": 1e9, "1e-6": 1e-6}),
        *wholes({"one": [1], "two": [2]}),
    ]
    return finish("encoder", nodes, ids, outputs, [*weights.tensors, *constants])


def text_heads() -> onnx.ModelProto:
    """The genre is a vector's greatest axis, an entity a word's."""
    node, make = helper.make_node, helper.make_tensor_value_info
    nodes = [
        node("Slice", ["vector", "zero", "three", "one"], ["axes"]),
        node("Mul", ["axes", "4.0"], ["movies.genre"]),
        node("MatMul", ["states", "entities"], ["found"]),
        node("Add", ["found", "outside"], ["queries.entities"]),
    ]
    inputs = [
        make("vector", TensorProto.FLOAT, ["batch", D]),
        make("states", TensorProto.FLOAT, ["batch", "tokens", D]),
    ]
    outputs = [
        make("movies.genre", TensorProto.FLOAT, ["batch", 3]),
        make("queries.entities", TensorProto.FLOAT, ["batch", "tokens", 3]),
    ]
    entities = [[0, 1, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]]
    constants = [
        *floats({"4.0": 4.0, "outside": [0.5, 0, 0], "entities": entities}),
        *wholes({"zero": [0], "one": [1], "three": [3]}),
    ]
    return finish("text_heads", nodes, inputs, outputs, constants)


def ranker() -> onnx.ModelProto:
    node = helper.make_node
    nodes = [
        node("Gather", ["strength", "behaviour"], ["by_behaviour"]),
        node("Mul", ["value", "0.25"], ["quarter"]),
        node("Add", ["quarter", "1.0"], ["by_value"]),
        node("Cast", ["age"], ["years"], to=TensorProto.FLOAT),
        node("Pow", ["0.5", "years"], ["by_age"]),
        node("Cast", ["history_mask"], ["mask"], to=TensorProto.FLOAT),
        node("Mul", ["by_behaviour", "by_value"], ["w1"]),
        node("Mul", ["w1", "by_age"], ["w2"]),
        node("Mul", ["w2", "mask"], ["weight"]),
        node("ReduceSum", ["weight", "one"], ["total"], keepdims=1),
        node("Max", ["total", "least"], ["some"]),
        node("Div", ["weight", "some"], ["share"]),
        node("Unsqueeze", ["share", "two"], ["column"]),
        node("Mul", ["history", "column"], ["weighted"]),
        node("ReduceSum", ["weighted", "one"], ["user"], keepdims=0),
        node("Unsqueeze", ["user", "two"], ["user_column"]),
        node("MatMul", ["candidates", "user_column"], ["product"]),
        node("Squeeze", ["product", "two"], ["match"]),
        node("Mul", ["match", "2.0"], ["twice"]),
        node("Add", ["twice", "3.0"], ["movies.rating"]),
        node("Mul", ["match", "4.0"], ["books.like"]),
        node("Slice", ["priors", "two", "three", "two"], ["seen_column"]),
        node("Squeeze", ["seen_column", "two"], ["seen"]),
        node("Mul", ["seen", "5.0"], ["familiar"]),
        node("Add", ["books.like", "familiar"], ["books.like.order"]),
        node("Slice", ["priors", "zero", "one", "two"], ["popularity_column"]),
        node("Squeeze", ["popularity_column", "two"], ["popularity"]),
        node("Add", ["books.like", "popularity"], ["alone"]),
        node("ReduceSum", ["affinity", "two"], ["together"], keepdims=0),
        node("Add", ["alone", "together"], ["movies.like"]),
    ]
    nodes += [node("Unsqueeze", [name, "two"], [f"{name}_column"]) for name in OUTPUTS]
    nodes.append(node("Concat", [f"{name}_column" for name in OUTPUTS], ["all"], axis=2))
    nodes.append(node("Gather", ["all", "asked"], ["scores"], axis=2))
    make = helper.make_tensor_value_info
    inputs = [
        make("history", TensorProto.FLOAT, ["batch", "events", D]),
        make("behaviour", TensorProto.INT64, ["batch", "events"]),
        make("value", TensorProto.FLOAT, ["batch", "events"]),
        make("age", TensorProto.INT64, ["batch", "events"]),
        make("history_mask", TensorProto.INT64, ["batch", "events"]),
        make("candidates", TensorProto.FLOAT, ["batch", "items", D]),
        make("priors", TensorProto.FLOAT, ["batch", "items", 3]),
        make("affinity", TensorProto.FLOAT, ["batch", "items", "events"]),
        make("asked", TensorProto.INT64, ["asked"]),
    ]
    outputs = [make("scores", TensorProto.FLOAT, ["batch", "items", "asked"])]
    constants = [
        *floats({"strength": [1, 2, 2], "0.25": 0.25, "0.5": 0.5, "1.0": 1.0, "2.0": 2.0, "3.0": 3.0, "4.0": 4.0}),
        *floats({"5.0": 5.0, "least": 1e-6}),
        *wholes({"zero": [0], "one": [1], "two": [2], "three": [3]}),
    ]
    return finish("ranker", nodes, inputs, outputs, constants)


def floats(values: dict[str, object]) -> list[TensorProto]:
    return [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in values.items()]


def wholes(values: dict[str, list[int]]) -> list[TensorProto]:
    return [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in values.items()]


def finish(name: str, nodes: list, inputs: list, outputs: list, constants: list) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, name, inputs, outputs, constants)
    return helper.make_model(
        graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)], producer_name="tiny", producer_version="1"
    )


def tiny_neighbours() -> Neighbours:
    row = {name: number for number, name in enumerate(MOVIES)}
    counts = np.zeros(len(MOVIES) + len(BOOKS), np.int64)
    for event, _ in LINKS:  # in the order of the rows
        counts[row[event]] += 1
    candidates = np.array([row[candidate] for _, candidate in LINKS])
    return make_neighbours(np.concatenate([[0], np.cumsum(counts)]), candidates, np.array(list(LINKS.values())))


def tiny_manifest() -> Manifest:
    behaviours = (
        Behaviour("movies", "view"),
        Behaviour("movies", "rate", mean=3.0, scale=0.5),
        Behaviour("books", "read"),
    )
    return Manifest(
        name="tiny",
        created="2026-01-01T00:00:00+00:00",
        tool={"name": "make_tiny_bundle", "version": "1"},
        tasks=TASKS,
        outputs=OUTPUTS,
        input=InputContract(max_tokens=16, max_history=4, vector_size=D, behaviours=behaviours, no_history=True),
        domains={"movies": (0, len(MOVIES)), "books": (len(MOVIES), len(MOVIES) + len(BOOKS))},
        profiles={"fast": "encoder.onnx", "exact": "encoder.exact.onnx"},
        onnx=Onnx(),
        catalogue="student",
        stages=(),
        quality={"movies.like": {"ndcg@10": 1.0}},
        certified=False,
        reasons=("built by hand",),
        data={"name": "tiny", "split_hash": "", "licence": "Apache-2.0", "notes": []},
    )


def make(folder: Path) -> None:
    """Write the whole bundle into an empty or missing folder."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = encoder_weights()
    (folder / "encoder.bin").write_bytes(weights.data)
    (folder / "encoder.onnx").write_bytes(encoder(weights, integer=True).SerializeToString(deterministic=True))
    (folder / "encoder.exact.onnx").write_bytes(encoder(weights, integer=False).SerializeToString(deterministic=True))
    (folder / "text_heads.onnx").write_bytes(text_heads().SerializeToString(deterministic=True))
    (folder / "ranker.onnx").write_bytes(ranker().SerializeToString(deterministic=True))
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n", "utf-8")
    ids = [*MOVIES, *BOOKS]
    vectors = np.array([*MOVIES.values(), *BOOKS.values()], np.float32)
    priors = np.zeros((len(ids), 3))
    priors[: len(MOVIES), 0] = list(POPULARITY.values())
    priors[ids.index(USUAL[0]), 1] = USUAL[1]
    priors[ids.index("emma"), 2] = 1
    write_catalogue(folder, ids, vectors=vectors, priors=priors)
    write_neighbours(folder, tiny_neighbours())
    write_manifest(folder, tiny_manifest())
    write_golden(
        folder,
        ["space alien", "Love & magic!", "red ship, blue dragon", "ÉTÉ 漢字 space"],
        ranks=[
            ("movies", ["alien", Event("hobbit", behaviour="rate", value=5.0)], list(MOVIES)),
            ("books", ["dune", Event(text="love heart", domain="movies")], list(BOOKS)),
        ],
    )
    write_manifest(folder, tiny_manifest())


if __name__ == "__main__":
    place = Path(__file__).parent / "tiny_bundle"
    shutil.rmtree(place, ignore_errors=True)
    make(place)
