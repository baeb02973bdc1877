"""The requests and answers of the routes of `managing`: collections, models and jobs."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, Field

from chiasm.files import one_form
from chiasm.serving.schemas import Strict

FolderName: TypeAlias = Annotated[
    str,
    Field(pattern=r"^[^\W_]([\w .-]{0,62}[\w-])?$", description="Letters, digits, spaces, and - . _ within"),
    AfterValidator(one_form),
]


class CollectionRequest(Strict):
    """A new collection."""

    name: FolderName


class ModelRequest(Strict):
    """The model that is to recognise."""

    name: Annotated[str, Field(min_length=1, max_length=255), AfterValidator(one_form)]


class JobRequest(Strict):
    """A command to run."""

    kind: Literal["align", "fit"] = Field(
        description="`align` learns from pairs of pictures and texts to find one by the other; `fit` learns to recognise the "
        "values of a column."
    )
    label: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(one_form)] | None = Field(
        None, description="Of `fit`: the column."
    )
    model: FolderName | None = Field(None, description="Of `fit`: the name of the model. Default: that of the column.")


class CollectionEntry(BaseModel):
    """One of the collections of a server."""

    name: str
    address: str = Field(description="What the paths of its routes begin with, e.g. `/c/photos`.")


class CollectionsAnswer(BaseModel):
    """The collections of a server. Without `/c/NAME` in front, a path is of the first one."""

    collections: list[CollectionEntry]
    makes: bool = Field(description="Whether new ones can be made.")


class ModelsAnswer(BaseModel):
    """The models of a collection."""

    models: list[str]
    current: str | None = Field(description="The one that recognises; null without one.")


class Sentence(BaseModel):
    """The result of a job, for people."""

    sentence: str
    before: str | None = Field(description="The same numbers as they were before, where there was something before.")


class JobAnswer(BaseModel):
    """A command that runs, or ran, beside the server."""

    id: str
    kind: Literal["align", "fit"]
    collection: str
    model: str | None = Field(description="Name of the model that `fit` makes.")
    state: Literal["running", "done", "failed", "cancelled"]
    progress: str = Field(description="The last line that it printed about where it is.")
    seconds: float
    result: Sentence | None
    error: str | None


class JobsAnswer(BaseModel):
    """The jobs of a server since it was started, of all collections, the newest first."""

    jobs: list[JobAnswer]
