"""On a world whose truth is known the teacher learns every task: clearly above chance, and near the best there is."""

import pytest

from mtrec_edge_compress.data.arrays import build_arrays
from mtrec_edge_compress.data.oracle import Oracle
from mtrec_edge_compress.data.synthetic import make_world
from mtrec_edge_compress.encoding import encode_all
from mtrec_edge_compress.evaluate import Evaluation, evaluate
from mtrec_edge_compress.job import COLLABORATION, Job
from mtrec_edge_compress.recipe import Model, Recipe, Teacher
from mtrec_edge_compress.scorer import torch_ranker
from mtrec_edge_compress.stages import collaborate
from mtrec_edge_compress.teacher import small_random_bert, teacher_batches, train_teacher
from mtrec_edge_compress.training_settings import Training

pytestmark = pytest.mark.slow

RECIPE = Recipe(
    model=Model(vector_size=64, max_tokens=32, max_history=30),
    teacher=Teacher(
        layers=2,
        hidden_size=64,
        vocabulary=2000,
        training=Training(epochs=10, users=32, learning_rate=2e-3, head_learning_rate=3e-3, patience=10),
    ),
)


@pytest.fixture(scope="module")
def reached(tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Evaluation]:
    """What the teacher reaches on the TEST fold, and what the truth does."""
    folder = tmp_path_factory.mktemp("learning")
    dataset, truth = make_world(0)
    arrays = build_arrays(dataset)
    job = Job(RECIPE, arrays, small_random_bert(RECIPE, arrays, folder / "bert"), (), folder, folder, "cpu", False)
    place = (folder / COLLABORATION).parent
    place.mkdir()
    collaborate(job, place)
    model = train_teacher(
        RECIPE,
        teacher_batches(RECIPE, arrays, job.teacher_tokens, job.collaboration),
        job.encoder,
        folder=folder / "training",
        validate=job.validator(job.teacher_tokens, "auto"),
        device="cpu",
        progress=False,
    ).model
    encoded = encode_all(model, job.teacher_tokens, device=job.place)
    return job.judge(encoded, torch_ranker(model)), evaluate(Oracle(truth, arrays), arrays)


def share(reached: tuple[Evaluation, Evaluation], task: str, metric: str, *, chance: float = 0.0) -> float:
    """Return how much of the way from chance to the oracle the teacher went."""
    teacher, oracle = (evaluation.tasks[task][metric] for evaluation in reached)
    return (teacher - chance) / (oracle - chance)


def test_ratings_close_half_of_the_gap_between_the_mean_and_the_truth(reached: tuple[Evaluation, Evaluation]) -> None:
    """The truth knows each user's mood and each item's quality; the model has a dozen noisy ratings of either."""
    constant = reached[0].tasks["video.rating"]["rmse_constant"]
    assert share(reached, "video.rating", "rmse", chance=constant) >= 0.5


@pytest.mark.parametrize("task", ["shop.category", "music.genre"])
def test_categories_are_nearly_as_right_as_the_truth(reached: tuple[Evaluation, Evaluation], task: str) -> None:
    assert share(reached, task, "accuracy") >= 0.9


@pytest.mark.parametrize("task", ["shop.click", "music.listen"])
def test_what_is_chosen_next_ranks_high(reached: tuple[Evaluation, Evaluation], task: str) -> None:
    random = 4.6 / 300  # at most: the ten gains of NDCG@10, each of one item in 300
    assert share(reached, task, "ndcg@10", chance=random) >= 0.6
    assert share(reached, task, "cold_ndcg@10") >= 0.75  # items no user was ever seen with, known by their text alone


def test_likes_are_told_from_dislikes(reached: tuple[Evaluation, Evaluation]) -> None:
    assert share(reached, "video.like", "auc", chance=0.5) >= 0.75


def test_query_words_get_their_tags(reached: tuple[Evaluation, Evaluation]) -> None:
    assert share(reached, "queries.tags", "span_f1") >= 0.9
