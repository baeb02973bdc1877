"""A search in and out: a `Query`, `SearchOptions`, and the `SearchResult` that comes back.

The same three objects serve the verb, the command line, the server and the page.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Float

from chiasm.errors import CollectionError, SpaceError
from chiasm.files import one_form
from chiasm.types import Image, Media, Modality, Scalar, Text

GOOD = 0.5  # probability from which a hit is more probably relevant than not
MOST = 10_000  # hits that can be asked for, with those of the pages before

Metric: TypeAlias = Literal["cosine", "dot", "l2"]
Order: TypeAlias = Metric | Literal["auto"]
Band: TypeAlias = Literal["good", "possible", "unlikely"]
Part: TypeAlias = Media | tuple[Image, Text]
"""One input of an encoder: a medium, or a picture with words."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How to search, whatever with.

    Attributes:
        k: hits at the most. A smaller collection gives fewer.
        offset: hits to pass over: those of the pages before.
        modality: find items by their files of this modality only. Default: by any.
        where: condition on the columns of the items, see `chiasm.store.where`.
        min_probability: leave out hits that are less probably relevant, from 0 to 1; `"auto"`: than what 97.5 % of the
            queries with an answer reach. No hits are left where nothing was found.
        metric: show hits by `"cosine"`, `"dot"` or `"l2"` alone: their score is its value, distances with a minus sign, and
            they have no probability. All vectors have unit length, so the three order alike. Default: by what `align` has
            learned about scores, and by cosine where it has not.
        hybrid: rank by the query's words in texts, transcripts and columns too (BM25), fused by reciprocal ranks. Files
            without words do not rank lower for lacking them.
        rerank: a sentence-transformers cross-encoder, hub id or folder, that reads the query and the texts of the first 50
            hits.
        diversity: from 0 (none) to 1, how much a hit is to differ from those before it.

    Raises:
        CollectionError: k, offset or diversity out of range.
        SpaceError: there is no such metric, or a least probability together with a metric.

    Example:
        >>> SearchOptions(k=20, where="year > 1990").offset
        0
    """

    k: int = 10
    offset: int = 0
    modality: Modality | None = None
    where: str | None = None
    min_probability: float | Literal["auto"] | None = None
    metric: Order = "auto"
    hybrid: bool = False
    rerank: str | None = None
    diversity: float = 0.0

    def __post_init__(self) -> None:
        if self.k < 1 or self.offset < 0 or self.k + self.offset > MOST:
            raise CollectionError(
                f"k must be at least 1, offset at least 0 and both together at most {MOST}; got {self.k} and {self.offset}"
            )
        if not 0 <= self.diversity <= 1:
            raise CollectionError(f"diversity is a number from 0 to 1; got {self.diversity}")
        if self.metric not in ("auto", *get_args(Metric)):
            raise SpaceError(f"there is no metric {self.metric!r}. There are auto, {', '.join(get_args(Metric))}")
        if self.metric != "auto" and self.min_probability is not None:
            raise SpaceError(
                f"hits in the order of {self.metric} have no probability, so there is no least one: probabilities are "
                "learned for the order that the space takes by itself. Leave out the metric, or the least probability"
            )


@dataclass(frozen=True, eq=False)
class Query:
    """Words, files and items of the collection to search for, together or alone.

    Attributes:
        plus: media to find.
        minus: media to avoid.
        like: ids of items to find others like; they are not hits themselves.
        liked: ids of earlier hits with a thumb up: the query moves towards them, and they are not shown again.
        disliked: ids of earlier hits with a thumb down.
        vectors: unit vectors of its parts (`Searcher.parts`), where they were prepared before (`Searcher.prepare`).

    Example:
        >>> Query((Text("a red boat"),), minus=(Text("people"),)).words
        'a red boat'
    """

    plus: tuple[Media, ...] = ()
    minus: tuple[Media, ...] = ()
    like: tuple[str, ...] = ()
    liked: tuple[str, ...] = ()
    disliked: tuple[str, ...] = ()
    vectors: Float[np.ndarray, "media dim"] | None = None

    def __post_init__(self) -> None:
        for name in ("like", "liked", "disliked"):  # as ids are stored
            object.__setattr__(self, name, tuple(map(one_form, getattr(self, name))))

    @property
    def words(self) -> str:
        """The words of `plus`, for full text and rerankers; empty where there are none."""
        return " ".join(medium.text for medium in self.plus if isinstance(medium, Text))

    @property
    def picture_with_words(self) -> tuple[Image, Text] | None:
        """The picture and the text that are searched for, where these are all; else None."""
        match self.plus:
            case (Image() as image, Text() as text) | (Text() as text, Image() as image):
                return image, text
        return None

    @property
    def modality(self) -> Modality:
        """The modality that its scores are judged as: text where it has words, or names items alone."""
        return "text" if not self.plus or self.words else self.plus[0].modality

    @property
    def names_items_only(self) -> bool:
        """Whether it consists of items to find others like."""
        return bool(self.like) and not self.plus

    @property
    def is_one_item(self) -> bool:
        """Whether it is one item and nothing else."""
        return len(self.like) == 1 and not (self.plus or self.minus or self.liked or self.disliked)

    @property
    def is_one_medium(self) -> bool:
        """Whether it is one medium and nothing else, as the queries that probabilities are learned from."""
        return len(self.plus) == 1 and not (self.minus or self.like or self.liked or self.disliked)


@dataclass(frozen=True)
class Span:
    """A moment of a file among the results."""

    start: float  # from the beginning of the file, in seconds; in a text in characters
    end: float
    score: float  # cosine with the query, or the metric that was asked for
    text: str | None  # the passage itself, or what is said, where it is known


def band_of(probability: float | None, threshold: float | None) -> Band | None:
    """Return a probability of relevance in a word; None of None.

    Args:
        probability: of a hit.
        threshold: of the result: below it a best hit means that nothing was found.

    Example:
        >>> [band_of(probability, 0.1) for probability in (0.7, 0.2, 0.05)]
        ['good', 'possible', 'unlikely']
    """
    if probability is None or threshold is None:
        return None
    if probability < threshold:
        return "unlikely"
    return "good" if probability >= GOOD else "possible"


@dataclass(frozen=True)
class Hit:
    """One item among the results, by its best file or a moment of it."""

    id: str
    modality: Modality  # of the file
    score: float  # cosine with the query, or the metric that was asked for
    path: str | None  # of the file; None for a text that stands in a manifest
    text: str | None  # the text itself or the passage that was found, or what is said in the sound or in the moment
    start: float | None = None  # as of `Span`; None: the whole file
    end: float | None = None
    probability: float | None = None  # of being relevant; None where it was not learned
    band: Band | None = None  # the same in a word, see `band_of`
    moments: tuple[Span, ...] = ()  # of the same file, nearest to the query first
    number: int = 0  # of the file among those of its kind that the item has
    metadata: dict[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True)
class SearchResult:
    """The hits of one query, best first, and the space that was searched.

    Attributes:
        space: its name.
        hits: best first.
        found: whether any hit is good enough to say that something was found; None where there are no probabilities.
        threshold: probability that the best hit of 97.5 % of the queries with an answer reaches, or the one asked for.
        false_hit_rate: share of queries without an answer whose best hit reaches it all the same, on held-out pairs.
        notes: in words, what part of a long query was not read by what (vectors are of all of it), and which modalities could
            not be compared with the query.

    Example:
        >>> SearchResult("start", (Hit("boat", "image", 0.5, "/boat.png", None),)).as_dict()["hits"][0]["path"]
        '/boat.png'
    """

    space: str
    hits: tuple[Hit, ...]
    found: bool | None = None
    threshold: float | None = None
    false_hit_rate: float | None = None
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON, by the names of its fields."""
        return {**asdict(self), "notes": list(self.notes), "hits": [asdict(hit) for hit in self.hits]}
