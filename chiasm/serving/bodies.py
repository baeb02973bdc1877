"""Parse request bodies, JSON with base64 or multipart forms, into items to search with, embed or recognise.

In a multipart body the parts `text`, `image`, `audio` and `video` make up one thing, and every part `file` is a thing
of its own, whose content tells its modality. The other parts are options, by the names of the JSON body.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from chiasm.files import one_form
from chiasm.media.kinds import suffix_of_name
from chiasm.serving.guard import Visit
from chiasm.serving.problems import Problem, of_validation
from chiasm.serving.schemas import MOST_THINGS, Plain
from chiasm.serving.settings import Settings
from chiasm.types import MODALITIES, Modality

ModelT = TypeVar("ModelT", bound=BaseModel)

_FIELD_BYTES = 64 * 1024
_FILES: tuple[Modality, ...] = ("image", "audio", "video")


@dataclass(frozen=True)
class Upload:
    """One uploaded file: its bytes, or an open file that holds them. Of its name only what it promises is looked at."""

    source: bytes | BinaryIO
    modality: Modality | None  # what it was sent as; None: whatever it is
    suffix: str = ""  # of its name, see `kinds.suffix_of_name`

    def write(self, file: BinaryIO) -> None:
        """Copy the upload into a file."""
        if isinstance(self.source, bytes):
            file.write(self.source)
        else:
            self.source.seek(0)
            shutil.copyfileobj(self.source, file, 2**20)


@dataclass(frozen=True)
class Given:
    """One query or item of a request, with files not decoded yet."""

    words: Plain
    files: tuple[Upload, ...] = ()


@dataclass(frozen=True)
class UploadForm:
    """Files that are sent to be kept, and what is said of them."""

    files: tuple[Upload, ...]
    label: str | None = None
    folder: str | None = None


def visit_of(request: Request) -> Visit:
    """Return the guard's record of a request."""
    visit: Visit = request.scope["state"]["visit"]
    return visit


def type_of(request: Request) -> str:
    """Return the media type of the body without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_json(request: Request, model: type[ModelT], settings: Settings) -> ModelT:
    """Parse a JSON body.

    Raises:
        Problem: 415 it is of another type; 413 it is too large; 422 it does not fit.
    """
    if type_of(request) != "application/json":
        raise _wrong_type(request, "application/json")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > settings.max_json:
            raise Problem(
                413,
                "too-large",
                f"the JSON has more than {settings.max_json:,} bytes. Send large files as multipart/form-data",
                headers={"Connection": "close"},
            )
    try:
        return model.model_validate_json(bytes(body))
    except ValidationError as error:
        raise of_validation(error) from None


@asynccontextmanager
async def things(
    request: Request,
    whole: type[ModelT],
    name: str,
    *,
    words: type[Plain],
    options: type[BaseModel],
    settings: Settings,
) -> AsyncIterator[tuple[list[Given], dict[str, Any]]]:
    """Yield the items and the options of a body of either type; uploaded files are deleted afterwards.

    Args:
        request: whose body is read.
        whole: schema of the JSON body.
        name: of the field of `whole` that holds the things.
        words: schema of what of a thing is no file.
        options: schema of the rest of the JSON body.
        settings: bounds.
    """
    if type_of(request) != "multipart/form-data":
        if type_of(request) != "application/json":
            raise _wrong_type(request, "application/json or multipart/form-data")
        found = await read_json(request, whole, settings)
        given = [_given(thing, words) for thing in getattr(found, name)]
        yield given, {field: getattr(found, field) for field in options.model_fields}
        return
    fields = len(options.model_fields) + 4 * MOST_THINGS
    async with request.form(max_files=MOST_THINGS, max_fields=fields, max_part_size=_FIELD_BYTES) as form:
        yield _of_form(form, words, options)


@asynccontextmanager
async def read_upload(request: Request, *, most: int = 1, words: Sequence[str] = ()) -> AsyncIterator[UploadForm]:
    """Yield the files of a multipart form, with what it says of them.

    Args:
        request: with the form.
        most: files.
        words: the parts that it may have beside them, of label and folder.

    Raises:
        Problem: 415 the body is of another type; 422 a part is missing, unknown or out of bounds.
    """
    if type_of(request) != "multipart/form-data":
        raise _wrong_type(request, "multipart/form-data")
    async with request.form(max_files=most, max_fields=len(words), max_part_size=_FIELD_BYTES) as form:
        if set(form) - {"file", *words}:
            known = ", ".join(["file", *words])
            raise Problem(422, "invalid", f"the form has a part of an unknown name. Known are {known}")
        files = [file for file in form.getlist("file") if isinstance(file, UploadFile)]
        if not files or len(files) < len(form.getlist("file")) or any(len(form.getlist(name)) > 1 for name in words):
            raise Problem(422, "invalid", "the form needs a part file with a file, and has any other at most once")
        uploads = tuple(Upload(file.file, None, suffix_of_name(file.filename or "")) for file in files)
        yield UploadForm(uploads, _word("label", form.get("label")), _word("folder", form.get("folder")))


def _word(name: str, value: str | UploadFile | None) -> str | None:
    if value is None:
        return None
    if isinstance(value, UploadFile):
        raise Problem(422, "invalid", f"{name}: is words, and no file")
    word = one_form(value.strip())
    if not 0 < len(word) <= 1000:
        raise Problem(422, "invalid", f"{name}: has 1 to 1,000 characters; got {len(word)}")
    return word


def parse(model: type[ModelT], values: dict[str, Any]) -> ModelT:
    """Parse the values of a query string or form.

    Raises:
        Problem: 422, they do not fit.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise of_validation(error) from None


def _given(thing: Any, words: type[Plain]) -> Given:
    files = [Upload(content, modality) for modality in _FILES if (content := getattr(thing, modality)) is not None]
    return Given(words(**{name: getattr(thing, name) for name in words.model_fields}), tuple(files))


def _of_form(form: FormData, words: type[Plain], options: type[BaseModel]) -> tuple[list[Given], dict[str, Any]]:
    files: dict[Modality, Upload] = {}
    alone: list[Given] = []
    said: dict[str, Any] = {}
    asked: dict[str, Any] = {}
    for key, value in form.multi_items():
        if key not in {*_FILES, "file", *words.model_fields, *options.model_fields}:
            known = ", ".join([*_FILES, "file", *words.model_fields, *options.model_fields])
            raise Problem(422, "invalid", f"the form has a part of an unknown name. Known are {known}")
        if isinstance(value, UploadFile) != (key in {*_FILES, "file"}):
            what = "words, not a file" if isinstance(value, UploadFile) else "a file"
            raise Problem(422, "invalid", f"{key}: has to be {what}")
        if isinstance(value, UploadFile):
            if key == "file":
                alone.append(Given(words(), (Upload(value.file, None, suffix_of_name(value.filename or "")),)))
                continue
            modality = next(name for name in _FILES if name == key)
            if modality in files:
                raise _twice(key)
            files[modality] = Upload(value.file, modality)
        elif key in words.model_fields and _is_list(words, key):
            said.setdefault(key, []).append(value)
        else:
            fields = said if key in words.model_fields else asked
            if key in fields:
                raise _twice(key)
            fields[key] = value
    found = parse(options, asked)
    plain = parse(words, said)
    given = list(alone)
    if files or said:
        if not files and plain.text is None and not (getattr(plain, "like", ()) or getattr(plain, "uploads", ())):
            raise Problem(422, "invalid", "the query says what is not wanted, and not what is: add a text or a file")
        given.insert(0, Given(plain, tuple(files.values())))
    if not given:
        raise Problem(422, "invalid", f"the form has none of {', '.join(MODALITIES)} and file")
    return given, {field: getattr(found, field) for field in options.model_fields}


def _is_list(words: type[Plain], key: str) -> bool:
    return isinstance(words.model_fields[key].default, tuple)


def _twice(key: str) -> Problem:
    return Problem(422, "invalid", f"{key}: came twice. Several things are sent as parts named file, or as JSON")


def _wrong_type(request: Request, wanted: str) -> Problem:
    came = "none" if not request.headers.get("content-type") else "another"
    return Problem(415, "type", f"the body has to be {wanted}, as its Content-Type says; got {came}")
