"""Commands that ask a bundle: score, rank, explain, similar, classify, tag. They need numpy and onnxruntime alone."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from mtrec_edge.cli_text import (
    behaviour_option,
    bundle_argument,
    candidate_text_option,
    candidates_option,
    history_option,
    history_text_option,
    json_option,
    parse_candidates,
    parse_history,
    print_json,
    print_table,
    profile_option,
)

if TYPE_CHECKING:
    from mtrec_edge_runtime.history import Candidate
    from mtrec_edge_runtime.recommender import Ranked

Profile = Literal["fast", "exact"]
count_option = click.option("-k", "count", type=click.IntRange(min=1), default=10, show_default=True, help="How many.")


@click.command()
@bundle_argument
@click.option("--task", "tasks", multiple=True, help="Task to score, e.g. movies.like; may repeat; default: all.")
@click.option("--domain", help="Domain of the candidates; default: that of the first --task.")
@history_option
@history_text_option
@behaviour_option
@candidates_option
@candidate_text_option
@profile_option
@json_option
def score(
    bundle: Path,
    tasks: tuple[str, ...],
    domain: str | None,
    history_ids: tuple[str, ...],
    history_texts: tuple[str, ...],
    behaviour: str | None,
    candidate_ids: tuple[str, ...],
    candidate_texts: tuple[str, ...],
    profile: Profile,
    as_json: bool,
) -> None:
    """Score candidates for one user: one column a task.

    \b
    Example:
      mtrec-edge score work/quickstart/bundle --domain video --history item0 --history item1=4.5 --candidates item2
    """
    from mtrec_edge_runtime.recommender import Recommender

    if not domain and not tasks:
        raise click.UsageError("give --domain, or a --task whose domain is meant")
    domain = domain or tasks[0].split(".")[0]
    recommender = Recommender(bundle, profile=profile)
    candidates = parse_candidates(candidate_ids, candidate_texts)
    history = parse_history(history_ids, history_texts, behaviour=behaviour)
    scores = recommender.score(history, candidates, domain=domain, tasks=tasks or None)
    names = [*candidate_ids, *candidate_texts] or recommender.catalogue.ids(domain)
    rows = [(name, *(float(column[row]) for column in scores.values())) for row, name in enumerate(names)]
    if as_json:
        print_json([dict(zip(("item", *scores), row, strict=True)) for row in rows])
    else:
        print_table(["item", *scores], rows)


@click.command()
@bundle_argument
@click.option("--task", required=True, help="Task to rank by, e.g. movies.like.")
@count_option
@history_option
@history_text_option
@behaviour_option
@candidates_option
@candidate_text_option
@click.option("--exclude", multiple=True, metavar="ID", help="An item never to return; may repeat.")
@click.option("--keep-history", is_flag=True, help="Let items of the history be returned.")
@profile_option
@json_option
def rank(
    bundle: Path,
    task: str,
    count: int,
    history_ids: tuple[str, ...],
    history_texts: tuple[str, ...],
    behaviour: str | None,
    candidate_ids: tuple[str, ...],
    candidate_texts: tuple[str, ...],
    exclude: tuple[str, ...],
    keep_history: bool,
    profile: Profile,
    as_json: bool,
) -> None:
    """Rank the items a user would take next, best first.

    \b
    Example:
      mtrec-edge rank work/quickstart/bundle --task video.like --history item0 --history item1=4.5 -k 5
    """
    from mtrec_edge_runtime.recommender import Recommender

    ranked = Recommender(bundle, profile=profile).rank(
        parse_history(history_ids, history_texts, behaviour=behaviour),
        task=task,
        k=count,
        candidates=parse_candidates(candidate_ids, candidate_texts),
        exclude=exclude,
        exclude_history=not keep_history,
    )
    _print_ranked(ranked, as_json)


@click.command()
@bundle_argument
@click.option("--task", required=True, help="Task the item is ranked by, e.g. movies.like.")
@click.option("--item", help="Id of the catalogue item to explain.")
@click.option("--text", help="Text of an item the catalogue does not hold.")
@history_option
@history_text_option
@behaviour_option
@count_option
@profile_option
@json_option
def explain(
    bundle: Path,
    task: str,
    item: str | None,
    text: str | None,
    history_ids: tuple[str, ...],
    history_texts: tuple[str, ...],
    behaviour: str | None,
    count: int,
    profile: Profile,
    as_json: bool,
) -> None:
    """Tell why an item stands where `rank` puts it: what its score owes to each event and to what others did.

    \b
    Example:
      mtrec-edge explain work/quickstart/bundle --task video.like --history item0 --history item1=4.5 --item item2
    """
    from mtrec_edge_runtime.recommender import Recommender

    candidate = _one_item(item, text)
    history = parse_history(history_ids, history_texts, behaviour=behaviour)
    found = Recommender(bundle, profile=profile).explain(history, candidate, task=task)
    if as_json:
        print_json(asdict(found))
        return
    click.echo(f"score {found.score:.4f}; an effect is what it loses without the part")
    parts = {"all events": found.history, "what users did together": found.links, "what all users did": found.priors}
    rows = [(name, effect, "", "") for name, effect in parts.items()]
    rows += [
        (str(r.event.item or r.event.text), r.effect, f"{r.cosine:.2f}", f"{r.link:.3f}") for r in found.reasons[:count]
    ]
    print_table(["part", "effect", "cosine", "link"], [row for row in rows if row[1] is not None])


@click.command()
@bundle_argument
@click.option("--domain", required=True, help="Domain of the items, e.g. movies.")
@click.option("--item", help="Id of a catalogue item.")
@click.option("--text", help="Text of an item the catalogue does not hold.")
@count_option
@profile_option
@json_option
def similar(
    bundle: Path, domain: str, item: str | None, text: str | None, count: int, profile: Profile, as_json: bool
) -> None:
    """Find the catalogue items nearest to an item or a text: by their texts, and by what users did together.

    \b
    Example:
      mtrec-edge similar work/quickstart/bundle --domain video --item item0 -k 5
    """
    from mtrec_edge_runtime.recommender import Recommender

    candidate = _one_item(item, text)
    _print_ranked(Recommender(bundle, profile=profile).similar(candidate, domain=domain, k=count), as_json)


@click.command()
@bundle_argument
@click.argument("text")
@click.option("--task", required=True, help="Multi-class task, e.g. movies.genre.")
@profile_option
@json_option
def classify(bundle: Path, text: str, task: str, profile: Profile, as_json: bool) -> None:
    """Print the probability of each label of a text, best first.

    \b
    Example:
      mtrec-edge classify work/quickstart/bundle "siminel vezibo sedelus" --task shop.category
    """
    from mtrec_edge_runtime.recommender import Recommender

    labels = Recommender(bundle, profile=profile).classify(text, task=task)
    if as_json:
        print_json(labels)
    else:
        print_table(["label", "probability"], list(labels.items()))


@click.command()
@bundle_argument
@click.argument("text")
@click.option("--task", required=True, help="Token task, e.g. queries.tags.")
@profile_option
@json_option
def tag(bundle: Path, text: str, task: str, profile: Profile, as_json: bool) -> None:
    """Print a label for each word of a text.

    \b
    Example:
      mtrec-edge tag work/quickstart/bundle "mumufer sobunu zezoko" --task queries.tags
    """
    from mtrec_edge_runtime.recommender import Recommender

    tagged = Recommender(bundle, profile=profile).tag(text, task=task)
    if as_json:
        print_json([{"word": word.word, "label": word.label} for word in tagged])
    else:
        print_table(["word", "label"], [(word.word, word.label) for word in tagged])


def _one_item(item: str | None, text: str | None) -> "Candidate":
    from mtrec_edge_runtime.history import NewItem

    if (item is None) == (text is None):
        raise click.UsageError("give either --item or --text")
    return NewItem(title=text) if text is not None else str(item)


def _print_ranked(ranked: "list[Ranked]", as_json: bool) -> None:
    if as_json:
        print_json([{"item": entry.item, "score": float(entry.score)} for entry in ranked])
    else:
        print_table(["item", "score"], [(entry.item, float(entry.score)) for entry in ranked])
