"""The verb `weigh`: how much words count beside vectors."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chiasm.encoders.runtime import Device
from chiasm.errors import LabelError
from chiasm.verbs.search import (
    Searcher,
    save_weight,
)

FEWEST_QUERIES = 10  # different ones, that `weigh` learns from


@dataclass(frozen=True)
class Weighing:
    """How much the words of a query count beside its vectors, by the thumbs on earlier hits, and whether that was kept."""

    space: str
    kept: bool  # else hybrid search goes by reciprocal ranks
    why: str  # in words, with both numbers
    weight: float  # learned, of the words; vectors have the rest
    precision: dict[str, float]
    """Mean average precision of "vectors" and "words" alone, of "ranks" (both by reciprocal ranks) and of "weight" (both by
    a learned weight, on queries that it was not learned from)."""
    gain: float  # of the weight over reciprocal ranks
    standard_error: float  # of the gain
    queries: int  # different ones that were learned from
    silent: int  # queries with thumbs that say nothing about the weight

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def weigh(collection: str | Path, *, space: str | None = None, device: Device = "auto") -> Weighing:
    """Learn from thumbs (`feedback`) how much words count beside vectors in hybrid search, and keep it if that is better.

    Every query in words with a thumb up and a thumb down is searched with again. The learned weight is kept with the space,
    and `search(hybrid=True)` goes by it, if it beats reciprocal ranks by more than one standard error of the paired
    difference on queries that it was not learned from. Else a weight that was kept before is removed.

    Args:
        collection: the collection.
        space: name of the space. Default: the newest.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Raises:
        LabelError: fewer than 10 different queries to learn from.
        SpaceError: there is no such space, it lacks text, or the weight cannot be written.
        CollectionError: the collection has no vectors.
    """
    from chiasm.retrieval.hybrid import compare_fusions
    from chiasm.store.feedback import FeedbackTable
    from chiasm.verbs.learn import judged

    searcher = Searcher(collection, space=space, device=device)
    searcher.space.encoder("text", searcher.networks)  # asked for here, not once a query
    given = FeedbackTable(searcher.collection).rated_queries()
    found = judged(given, searcher.rankings, searcher.names)
    if found.different < FEWEST_QUERIES:
        raise LabelError(
            f"to learn how much words count takes at least {FEWEST_QUERIES} different queries with both a thumb up and a thumb "
            f"down among what is found; there are {found.different}, and {found.silent} more that say nothing. Give "
            f'more: chiasm feedback {collection} ID --verdict up --query "...", and the same with --verdict down'
        )
    compared = compare_fusions(found.queries, groups=found.groups)
    by = compared.precision
    precision = {"vectors": by["first"], "words": by["second"], "ranks": by["ranks"], "weight": by["weight"]}
    why = (
        f"on left-out queries a learned weight has an average precision of {by['weight']:.3f} and reciprocal ranks "
        f"{by['ranks']:.3f}: a gain of {compared.gain:+.3f}, {'' if compared.is_better else 'not '}more than its standard "
        f"error of {compared.standard_error:.3f}"
    )
    result = Weighing(
        searcher.space.name, compared.is_better, why, compared.weight, precision, compared.gain, compared.standard_error,
        compared.groups, found.silent,
    )  # fmt: skip
    about = {name: value for name, value in result.as_dict().items() if name not in ("space", "kept", "weight")}
    folder = searcher.collection.path / "spaces" / searcher.space.name
    save_weight(folder, searcher.space, result.weight if result.kept else None, about=about)
    return result
