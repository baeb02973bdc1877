"""The requests and answers of the API, from which its OpenAPI document is made.

Bounds that stand here are part of the API; those that a server may be started with otherwise are `settings`.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from chiasm.files import one_form
from chiasm.serving.previews import Size
from chiasm.types import MODALITIES, Modality

MOST_THINGS = 64
MOST_HITS = 1000
MOST_STREAMED = 10_000
MOST_ITEMS = 500
MOST_ENTRIES = 1000
MOST_OFFSET = 10_000
MOST_OUTCOMES = 200
MOST_CHOSEN = 10_000
MOST_IDS = 100_000
MOST_FILES = 8  # of one item


def _decoded(value: Any) -> bytes:
    if not isinstance(value, str):
        raise ValueError("a file is sent as a string of base64")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"not base64 ({error})") from None


File = Annotated[
    bytes, BeforeValidator(_decoded), WithJsonSchema({"type": "string", "contentEncoding": "base64", "minLength": 4})
]
Id: TypeAlias = Annotated[str, Field(min_length=1, max_length=2000), AfterValidator(one_form)]
Ids: TypeAlias = Annotated[tuple[Id, ...], Field(max_length=64)]
Words: TypeAlias = Annotated[str, Field(min_length=1, max_length=10_000)]
Where: TypeAlias = Annotated[
    str,
    Field(
        min_length=1,
        max_length=2000,
        description="Condition on the columns, e.g. `label = 'bird'`; see docs/search.md.",
    ),
]
ListName: TypeAlias = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(one_form)]
UploadName: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{32}(\.[a-z0-9]{1,5})?$")]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Strict(BaseModel):
    """A part of a request, with nothing in it that is not known."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# ---------------------------------------------------------------------------------------------------------- requests


class Plain(Strict):
    """The non-file parts of an item."""

    text: Words | None = None


class Asked(Plain):
    """The non-file parts of a query."""

    minus: Words | None = Field(None, description="What is not wanted, in words.")
    like: Ids = Field((), description="Items to find others like.")
    liked: Ids = Field((), description="Hits that got a thumb up: the query moves towards them.")
    disliked: Ids = Field((), description="Hits that got a thumb down.")
    uploads: Annotated[tuple[UploadName, ...], Field(max_length=8)] = Field(
        (), description="Files to search with that were sent before, see /v1/uploads."
    )


class _Files(BaseModel):
    image: File | None = None
    audio: File | None = None
    video: File | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it has nothing to go by."""
        named = getattr(self, "like", ()) or getattr(self, "uploads", ())
        return all(getattr(self, name, None) is None for name in MODALITIES) and not named


class Thing(_Files, Plain):
    """Any subset of the modalities; files as base64. What a file is, is told from its content."""

    @model_validator(mode="after")
    def _has_something(self) -> Thing:
        if self.is_empty:
            raise ValueError(f"at least one of {', '.join(MODALITIES)} is needed")
        return self


class SearchQuery(_Files, Asked):
    """A query: words, files and items, alone or together."""

    @model_validator(mode="after")
    def _has_something(self) -> SearchQuery:
        if self.is_empty:
            raise ValueError(f"at least one of {', '.join(MODALITIES)} and like is needed")
        return self


class SearchOptions(Strict):
    """How to search, whatever with."""

    k: int = Field(10, ge=1, le=MOST_STREAMED, description=f"Hits; over {MOST_HITS} only as NDJSON.")
    offset: int = Field(0, ge=0, le=MOST_OFFSET, description="Hits to leave out at the beginning: the next page.")
    modality: Modality | None = Field(None, description="Find items by their files of this modality only.")
    where: Where | None = None
    min_probability: Share | Literal["auto"] | None = Field(
        None, description="Leave out hits less probably relevant than this; `auto`: than the space's own threshold."
    )
    metric: Literal["auto", "cosine", "dot", "l2"] = Field(
        "auto",
        description="Show hits by one metric alone; `auto`: by what scores are worth in the space, else by cosine.",
    )
    hybrid: bool = Field(False, description="Rank by the words of the query in texts and columns, too.")
    diversity: Share = Field(0.0, description="How much hits are to differ from those before them.")
    cards: bool = Field(False, description="Say `caption` and `preview` with each hit, for showing many.")


class SearchRequest(SearchOptions):
    """Several queries with the same options."""

    queries: list[SearchQuery] = Field(min_length=1, max_length=MOST_THINGS)


class SearchWords(SearchOptions, Asked):
    """One query without files."""


class ItemsQuery(Strict):
    """Which items to list."""

    after: str | None = Field(None, min_length=1, max_length=4000, description="`next` of the page before.")
    limit: int = Field(100, ge=1, le=MOST_ITEMS)
    where: Where | None = None
    sort: str | None = Field(
        None,
        min_length=1,
        max_length=201,
        description="Column to sort by, behind `-` for falling values. Default: `id`.",
    )
    within: ListName | None = Field(None, description="Only items of this list, see /v1/lists.")
    ids: Annotated[tuple[Id, ...], Field(max_length=MOST_ITEMS)] = Field(
        (), description="These items instead, in this order; with nothing else."
    )


class ReviewQuery(Strict):
    """How much to look at."""

    limit: int = Field(60, ge=1, le=MOST_ITEMS)


class IdsQuery(Strict):
    """Which items to name."""

    where: Where | None = None
    sort: str | None = Field(None, min_length=1, max_length=201, description="As of /v1/items.")
    within: ListName | None = Field(None, description="Only items of this list, see /v1/lists.")


class UploadQuery(Strict):
    """A picture of a file to search with."""

    size: Size = Size.TINY


class FacetsQuery(Strict):
    """Items and columns to count."""

    where: Where | None = None
    within: ListName | None = Field(None, description="Only items of this list, see /v1/lists.")
    column: Annotated[tuple[str, ...], Field(max_length=40)] = Field((), description="Columns. Default: the first 40.")


class FileQuery(Strict):
    """How to send a file."""

    size: Size | None = Field(None, description="A preview instead: pixels of the longer side of a picture of it.")
    v: str | None = Field(None, max_length=64, description="The version of the file that `preview` named.")


class ListChange(Strict):
    """A change to a list, which is made where there is none."""

    name: ListName
    add: Annotated[tuple[Id, ...], Field(max_length=MOST_CHOSEN)] = ()
    remove: Annotated[tuple[Id, ...], Field(max_length=MOST_CHOSEN)] = ()


class ListQuery(Strict):
    """One list."""

    name: ListName


class Chosen(Strict):
    """Items by their ids."""

    ids: list[Id] = Field(min_length=1, max_length=MOST_CHOSEN)


class Removal(Chosen):
    """Items to remove."""

    forget: bool = Field(
        False, description="Also from earlier versions, indexes, feedback, caches and models: for good, and slower."
    )


class ExportRequest(Strict):
    """Items to take along: by their ids, or all that meet conditions."""

    format: Literal["csv", "parquet", "zip"] = Field(description="`zip`: the files of the items.")
    ids: Annotated[tuple[Id, ...], Field(max_length=MOST_CHOSEN)] = ()
    where: Where | None = None
    within: ListName | None = None


class NoOptions(Strict):
    """Nothing beside the items."""


class PredictOptions(Strict):
    """How sure sets and alarms are to be."""

    level: Share = Field(0.9, description="How often the set of labels is to hold the true one.")
    false_alarm_rate: Share = Field(0.05, description="Share of items of known labels that may be called unknown.")


class PredictRequest(PredictOptions):
    """Several items."""

    items: list[Thing] = Field(min_length=1, max_length=MOST_THINGS)


class EmbedRequest(Strict):
    """Several items."""

    items: list[Thing] = Field(min_length=1, max_length=MOST_THINGS)


class FeedbackEntry(Strict):
    """A rating of one hit of one query."""

    item: Id
    verdict: Literal["up", "down"]
    query: Words | None = Field(None, description="The query in words, where it had any.")


class FeedbackRequest(Strict):
    """Thumbs up and down."""

    entries: list[FeedbackEntry] = Field(min_length=1, max_length=MOST_ENTRIES)


class LabelEntry(Strict):
    """The correct label of one item."""

    item: Id
    label: Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(one_form)]
    column: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(one_form)] | None = Field(
        None, description="The label column. Default: the one that the model was fitted on."
    )


class AddRequest(Strict):
    """The files of one item, such as a picture and its text, and what is known of it."""

    file: Annotated[
        list[Annotated[bytes, Field(json_schema_extra={"format": "binary"})]],
        Field(min_length=1, max_length=MOST_FILES),
    ]
    label: Annotated[str, Field(min_length=1, max_length=1000)] | None = Field(
        None, description="For the model to learn from. Needed by a server that was started without `--edit`."
    )
    folder: Annotated[str, Field(min_length=1, max_length=1000)] | None = Field(
        None,
        description="Name of the folder that they lay in: the columns `folder` and `label` of the item, as where a folder is "
        "added. Needs `--edit`.",
    )


class UploadRequest(Strict):
    """A file to search with."""

    file: bytes = Field(json_schema_extra={"format": "binary"})


class MapQuery(Strict):
    """The map to draw."""

    modality: Modality = "image"
    column: str | None = Field(
        None, min_length=1, max_length=200, description="Whose values to return with the points."
    )
    layout: Literal["overview", "neighbours"] = Field(
        "overview", description="Principal components, or t-SNE, which keeps neighbours together."
    )


class LabelsRequest(Strict):
    """Labels and corrections."""

    entries: list[LabelEntry] = Field(min_length=1, max_length=MOST_ENTRIES)


# ----------------------------------------------------------------------------------------------------------- answers


class Moment(BaseModel):
    """A time span of the file that was found, or a passage of the text."""

    start: float = Field(description="In seconds; in a text in characters.")
    end: float
    score: float
    text: str | None = Field(description="What is said in it, or the passage.")


class Hit(BaseModel):
    """One item that was found, by its best file."""

    id: str
    modality: Modality
    score: float
    probability: float | None = Field(description="Of being relevant, where it is known.")
    band: Literal["good", "possible", "unlikely"] | None = Field(
        description="The probability in a word: good from 0.5 on, possible from the threshold on, below it unlikely."
    )
    start: float | None = Field(
        description="Where it was found: in a recording in seconds, in a long text in characters."
    )
    end: float | None
    text: str | None = Field(
        description="The text or the passage of it that was found, or the transcript of the sound."
    )
    url: str | None = Field(description="Where the file is served; null for a text of a table.")
    moments: list[Moment]
    metadata: dict[str, Any]
    caption: str | None = Field(description="Words that stand for the item, where `cards` was asked for.")
    preview: str | None = Field(description="Where a picture of the item is, to be asked for with `size`.")


class Found(BaseModel):
    """The hits of one query, best first."""

    query: int = Field(description="Its place among the queries, from 0.")
    space: str
    found: bool | None = Field(description="Whether any hit is good enough; null where no probabilities are known.")
    threshold: float | None = Field(description="The probability from which a hit is good enough.")
    false_hit_rate: float | None = Field(description="Share of questions without an answer here that reach it.")
    notes: list[str] = Field(
        description="What part of a long query was not read by what, and which modalities it cannot be compared with."
    )
    hits: list[Hit]


class SearchAnswer(BaseModel):
    """An entry a query, in their order."""

    results: list[Found]


class Prediction(BaseModel):
    """The prediction for one item."""

    item: int = Field(description="Its place among the items, from 0.")
    label: str | None
    probability: float | None
    probabilities: dict[str, float]
    set: list[str] = Field(description="Labels that hold the true one as often as was asked.")
    unknown: bool = Field(description="It is like nothing that the model knows.")
    modalities: list[Modality] = Field(description="What the prediction is made from.")
    columns: dict[str, Any] = Field(description="Of a model of numbers, several labels or several columns.")


class ItemPrediction(BaseModel):
    """The prediction for one item of the collection."""

    label: str | None
    probability: float | None
    probabilities: dict[str, float]
    set: list[str]
    unknown: bool
    modalities: list[Modality]
    columns: dict[str, Any]


class PredictAnswer(BaseModel):
    """An entry an item, in their order."""

    predictions: list[Prediction]


class Embedded(BaseModel):
    """Unit vectors of one item."""

    item: int
    vectors: dict[Modality, list[float]]


class EmbedAnswer(BaseModel):
    """An entry an item, in their order. The cosine of two vectors is their inner product."""

    embeddings: list[Embedded]


class Medium(BaseModel):
    """One file or text of an item."""

    modality: Modality
    number: int
    text: str | None = Field(description="A text that stands in the table itself.")
    url: str | None = Field(description="Where the file is served.")


class Item(BaseModel):
    """One item of the collection."""

    id: str
    media: list[Medium]
    metadata: dict[str, Any]
    caption: str = Field(description="Words that stand for it: the beginning of its text, or a name.")
    preview: str | None = Field(description="Where a picture of it is, to be asked for with `size`; null without one.")


class ItemMoment(BaseModel):
    """A time span of a recording, or a passage of a text."""

    modality: Modality
    number: int = Field(description="Of the file among the item's files of this modality.")
    start: float | None = Field(description="In seconds; in a text in characters; null: the whole recording.")
    end: float | None
    text: str | None = Field(description="What is said in it, or the passage.")


class MomentsAnswer(BaseModel):
    """The moments of an item's files, in order."""

    moments: list[ItemMoment]


class IdsAnswer(BaseModel):
    """Ids in order."""

    ids: list[str]
    total: int = Field(description="Of all of them, also where only the first are listed.")


class ItemsAnswer(BaseModel):
    """Items in order, and where to go on."""

    items: list[Item]
    total: int = Field(description="Items on all pages together.")
    next: str | None = Field(description="To be sent as `after` for the next page; null on the last.")


class FacetValue(BaseModel):
    """One value of a column."""

    value: Any
    count: int


class Facet(BaseModel):
    """A column by its values, or as a range."""

    name: str
    kind: Literal["values", "range"]
    missing: int = Field(description="Items without a value.")
    values: list[FacetValue] = Field([], description="The most frequent ones, with the number of items.")
    more: int = Field(0, description="Values that are not listed.")
    low: Any = Field(None, description="Of a range: the smallest value; dates in ISO 8601.")
    high: Any = None
    bins: list[int] = Field([], description="Items in equal parts of the range.")


class FacetsAnswer(BaseModel):
    """Items counted by their columns, without columns of texts that hardly repeat."""

    total: int
    modalities: dict[Modality, int] = Field(description="Items that have any, by modality.")
    columns: list[Facet]


class ListsAnswer(BaseModel):
    """Lists with the number of their ids."""

    lists: dict[str, int]


class ListAnswer(BaseModel):
    """One list."""

    name: str
    ids: list[str]


class ListSize(BaseModel):
    """A list after a change."""

    name: str
    size: int


class Removed(BaseModel):
    """The number of items that were removed, and of those that are forgotten, all that had learned from them."""

    removed: int
    spaces: list[str] = Field(default=[], description="Spaces that are deleted: align again.")
    models: dict[str, int] = Field(
        default={}, description="Models by the number of items they learned from: fit again."
    )


class Uploaded(BaseModel):
    """A file that was kept for searches."""

    upload: str = Field(description="Its name, for `uploads` of a search.")


class Added(BaseModel):
    """The item that a file became."""

    id: str


class MapAnswer(BaseModel):
    """The points, of too many items some drawn at random. Numbers are little-endian and base64, since there may be many."""

    ids: list[str]
    xy: str = Field(description="x and y of each point, from 0 to 65535, as unsigned integers of 16 bits.")
    names: list[str] = Field(description="Of the groups of values of the column; the last is for the rest.")
    groups: str = Field(description="The number of each point's group, as a byte; empty without a column.")
    total: int = Field(description="Items with an embedding of this modality.")


class FileProblem(BaseModel):
    """A file that could not be used."""

    file: str = Field(description="Its name and its folder's, or the item and the place in it.")
    outcome: str
    reason: str


class OutcomesAnswer(BaseModel):
    """Files that could not be used, at most 200 of them."""

    files: list[FileProblem]
    total: int


class LearnAnswer(BaseModel):
    """How the new model compares with the old one."""

    model_config = ConfigDict(extra="allow")

    switched: bool = Field(description="Whether the new model replaces the old one.")
    why: str
    corrections: int
    items: int = Field(description="That the new model was trained on.")
    compared: str
    columns: list[dict[str, Any]]


class Doubt(BaseModel):
    """An item whose label is worth a look."""

    id: str
    kind: Literal["suspect", "unsure", "spread"] = Field(
        description="Its label is likely to be wrong; the model is unsure; or it stands for the rest."
    )
    label: str | None
    prediction: str = Field(description="Of a model that has not learned from the item.")
    probability: float


class ReviewAnswer(BaseModel):
    """Items to look at, in this order."""

    items: list[Doubt]
    classes: list[str] = Field(description="That the model knows, the most frequent first.")
    waiting: int = Field(description="Corrections that the model has not learned yet.")


class DriftAnswer(BaseModel):
    """Whether the items that came after the model was fitted are like those that it was trained on."""

    sentence: str = Field(description="What it comes to, as the command says it.")
    warnings: list[str] = Field(description="Empty if there is nothing to warn of.")


class Accepted(BaseModel):
    """How many entries were stored."""

    stored: int


class ModelAnswer(BaseModel):
    """A network that the encoder runs, as its makers describe it."""

    name: str
    fingerprint: str
    licence: str = Field(description="SPDX identifier where it is a permissive one; empty: unknown.")
    licence_from: str
    parameters: int | None
    size: int | None = Field(description="Bytes of its files.")
    modalities: list[Modality]


class StatusAnswer(BaseModel):
    """The served collection and model."""

    name: str
    version: str
    encoder: str
    modalities: list[Modality]
    items: int
    outcomes: dict[str, int] = Field(description="Files by outcome.")
    embeddings: dict[str, int] = Field(description="Vectors by modality.")
    columns: list[str]
    spaces: list[str] = Field(description="Oldest first; the last is the one that is searched in.")
    models: list[ModelAnswer]
    int8: dict[str, float] = Field(description="Mean cosine of vectors in int8 to float32, by modality.")
    notes: list[str] = Field(description="Which modalities can be compared with which, where not all can.")
    label: str | None = Field(description="What the model predicts; null without one.")
    ratings: dict[str, int] = Field(description="Stored ratings and labels by kind.")
    rates: bool = Field(description="Whether ratings are stored.")
    labels: bool = Field(description="Whether corrected labels are stored.")
    teaches: bool = Field(description="Whether files are added with a label.")
    learns: bool = Field(description="Whether the model learns.")
    edits: bool = Field(description="Whether items are added without a label, and removed.")


class Health(BaseModel):
    """Whether the process lives, or is ready."""

    status: Literal["ok", "starting"]


class ProblemError(BaseModel):
    """An error at one place of a request."""

    at: str
    problem: str


class ProblemDetails(BaseModel):
    """Why a request was refused (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[ProblemError] | None = None
