"""Data in memory, written as a table and files that are then read as any other.

Frames of pandas and polars, tables of Arrow, data sets of Hugging Face, and plain mappings of columns to values. Media
in them may be paths, bytes, pictures of Pillow, arrays of pixels, and waveforms with their rate. None of these libraries is
imported here: what an object can do tells what it is.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chiasm.errors import ManifestError
from chiasm.files import one_form, write_whole
from chiasm.store.listing import names_text
from chiasm.types import MODALITIES, FileOutcome, Image, Modality, Outcome

if TYPE_CHECKING:
    from PIL import Image as PillowImage

_EXPECTED = (
    "expected paths, a DataFrame, a datasets.Dataset, a mapping of columns to values, or a list of pictures; its columns are "
    "named image, text, audio and video, and whatever else"
)


def are_paths(data: Any) -> bool:
    """Return whether data are a path or paths, and no data yet.

    Example:
        >>> are_paths("photos"), are_paths(["a.png", Path("b.png")]), are_paths({"text": ["a"]})
        (True, True, False)
    """
    if isinstance(data, str | os.PathLike):
        return True
    return isinstance(data, list | tuple) and all(isinstance(one, str | os.PathLike) for one in data)


def write_frame(data: Any, room: Callable[[], Path]) -> tuple[Path, tuple[FileOutcome, ...]]:
    """Write data as a Parquet table, and the media in it as files, both named by their content.

    Args:
        data: see the top of the module.
        room: called for the folder to write into, which is made where there is none.

    Returns:
        The table, and outcomes of media that could not be written.

    Raises:
        ManifestError: it is none of these, has no rows or no column of media, or a column mixes types.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = columns_of(data)
    count = len(next(iter(columns.values()), ()))
    if not count or not columns.keys() & {*MODALITIES}:
        what = f"columns {', '.join(columns)}" if count else "no rows"
        raise ManifestError(f"the {type(data).__name__}", f"it has {what}; {_EXPECTED}")
    folder = room()
    folder.mkdir(parents=True, exist_ok=True)
    outcomes: list[FileOutcome] = []
    names: list[str | None] = [None] * count  # of each row, from its first medium that has a name
    written: dict[str, Any] = {}
    for modality in (name for name in MODALITIES if name in columns):
        cells = []
        for row, value in enumerate(columns[modality]):
            is_several = isinstance(value, list) and not any(isinstance(part, list) for part in value)
            parts = value if is_several else [value]  # pixels as lists of lists are one value, which is refused once
            kept = []
            for part in parts:
                try:
                    stored = _stored(part, modality, folder)
                except ValueError as error:
                    outcomes.append(FileOutcome(f"row {row}, column {modality!r}", Outcome.BROKEN, str(error)))
                    continue
                if stored is not None:
                    kept.append(stored[0])
                    names[row] = names[row] or stored[1]
            cells.append(kept or None)
        written[modality] = pa.array(cells, pa.list_(pa.string()))
    written |= {name: _column(name, values) for name, values in columns.items() if name not in MODALITIES}
    if "id" not in columns:
        written["id"] = pa.array(_ids(names, columns), pa.string())
    sink = io.BytesIO()
    pq.write_table(pa.table(written), sink)
    table = folder / f"{_digest(sink.getvalue())}.parquet"
    if not table.exists():
        write_whole(table, sink.getvalue())
    return table, tuple(outcomes)


def columns_of(data: Any) -> dict[str, list[Any]]:
    """Return data as values by column name.

    Raises:
        ManifestError: it is nothing that has columns, or they are not equally long.
    """
    if isinstance(data, Mapping) and data and all(hasattr(part, "features") for part in data.values()):
        parts = [columns_of(part) for part in data.values()]
        for name, part in zip(data, parts, strict=True):
            part["split"] = [str(name)] * len(next(iter(part.values()), ()))
        every = list(dict.fromkeys(name for part in parts for name in part))
        return {
            name: [value for part in parts for value in part.get(name, [None] * len(part["split"]))] for name in every
        }
    if hasattr(data, "features") and hasattr(data, "to_pandas"):  # of Hugging Face; media stay as they are stored
        columns = columns_of(data.to_pandas())
        for name, feature in data.features.items():
            if hasattr(feature, "names"):  # of a class, stored as its number
                columns[name] = [_class_of(value, feature.names) for value in columns[name]]
        return columns
    if hasattr(data, "collect_schema") and hasattr(data, "collect"):  # a LazyFrame of polars
        data = data.collect()
    if hasattr(data, "column_names") and hasattr(data, "to_pydict"):
        return columns_of(data.to_pydict())
    if isinstance(data, Mapping):
        single = [name for name, values in data.items() if isinstance(values, str | bytes) or not np.iterable(values)]
        if single:
            raise ManifestError(
                f"the {type(data).__name__}", "it holds one value; give a list of them", column=str(single[0])
            )
        columns = {one_form(str(name)): list(values) for name, values in data.items()}
    elif hasattr(data, "columns") and hasattr(data, "to_dict"):
        names = [one_form(str(name)) for name in data.columns]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ManifestError(
                f"the {type(data).__name__}", "several columns have this name; rename them", column=twice
            )
        columns = {name: data[own].to_list() for name, own in zip(names, data.columns, strict=True)}
    elif isinstance(data, Sequence | np.ndarray) and len(data) and all(is_picture(one) for one in data):
        columns = {"image": list(data)}
    else:
        raise ManifestError(f"the {type(data).__name__}", _EXPECTED)
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1:
        raise ManifestError(f"the {type(data).__name__}", f"its columns have {sorted(lengths)} values: as many of each")
    return columns


def _class_of(value: Any, names: Sequence[str]) -> str | None:
    is_known = isinstance(value, int | np.integer | float) and value == value and 0 <= value < len(names)  # noqa: PLR0124
    return names[int(value)] if is_known else None


def is_picture(value: Any) -> bool:
    """Return whether a value is a picture in memory: of Pillow, or an array that may be pixels."""
    return _is_pillow(value) or (isinstance(value, np.ndarray) and value.ndim in (2, 3))


def picture_of(value: Any) -> Image:
    """Return a picture in memory as RGB pixels.

    Raises:
        ValueError: it is an array of other than pixels.

    Example:
        >>> picture_of(np.zeros((4, 6), np.uint8)).pixels.shape
        (4, 6, 3)
    """
    return Image(np.ascontiguousarray(_pillow(value).convert("RGB")))


def _is_pillow(value: Any) -> bool:
    return hasattr(value, "save") and hasattr(value, "getbands")


def _stored(value: Any, modality: Modality, room: Path) -> tuple[str, str | None] | None:
    """Return what a table says of one medium, and a name for its item; None of nothing.

    Raises:
        ValueError: it is no medium of this modality.
    """
    if (
        value is None or (isinstance(value, float) and math.isnan(value)) or type(value).__name__ == "NAType"
    ):  # of pandas
        return None
    if isinstance(value, str | os.PathLike):
        written = os.fspath(value)
        if modality == "text" and not names_text(str(Path.cwd()), written.strip()):
            return written, None
        return str(Path.cwd() / written), os.path.splitext(written)[0]  # noqa: PTH122
    if modality == "text":
        raise ValueError(f"a text is a string or the path of one; got {type(value).__name__}")
    suffix = ""
    if isinstance(value, Mapping) and value.get("bytes") is None and isinstance(value.get("path"), str):
        return _stored(value["path"], modality, room)
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        suffix = Path(str(value.get("path") or "")).suffix.lower()
        content = value["bytes"]
    elif isinstance(value, bytes):
        content = value
    elif modality == "image":
        content, suffix = _png(value), ".png"
    elif modality == "audio":
        content, suffix = _wav(value), ".wav"
    else:
        raise ValueError(f"a {modality} is a path or bytes; got {type(value).__name__}")
    digest = _digest(content)
    path = room / f"{digest}{suffix if len(suffix) < 8 and suffix[1:].isalnum() else ''}"
    if not path.exists():
        write_whole(path, content)
    return str(path), digest[:16]


def _png(value: Any) -> bytes:
    picture = _pillow(value)
    buffer = io.BytesIO()
    kept = picture.mode in ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")
    (picture if kept else picture.convert("RGB")).save(buffer, "PNG")
    return buffer.getvalue()


def _pillow(value: Any) -> PillowImage.Image:
    from PIL import Image as PillowImage

    if isinstance(value, np.ndarray):
        if value.dtype != np.uint8:
            raise ValueError(f"pixels are whole numbers from 0 to 255 (uint8); got {value.dtype}")
        if value.ndim not in (2, 3) or (value.ndim == 3 and value.shape[2] not in (1, 3, 4)) or not value.size:
            raise ValueError(f"pixels have the shape (height, width) or (height, width, 3); got {value.shape}")
        return PillowImage.fromarray(value[:, :, 0] if value.ndim == 3 and value.shape[2] == 1 else value)
    if not isinstance(value, PillowImage.Image):
        raise ValueError(f"a picture is a path, bytes, an array of pixels or one of Pillow; got {type(value).__name__}")
    return value


def _wav(value: Any) -> bytes:
    import soundfile

    if isinstance(value, Mapping) and {"array", "sampling_rate"} <= value.keys():
        value = (value["array"], value["sampling_rate"])
    if not (isinstance(value, tuple) and len(value) == 2):
        raise ValueError(
            f"a sound is a path, bytes, or a waveform with its rate, (array, rate); got {type(value).__name__}"
        )
    waveform, rate = np.asarray(value[0], np.float32), int(value[1])
    if waveform.ndim not in (1, 2) or not waveform.size or rate <= 0:
        raise ValueError(
            f"a waveform has the shape (samples,) or (samples, channels); got {waveform.shape} at {rate} Hz"
        )
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def _column(name: str, values: Iterable[Any]) -> Any:
    import pyarrow as pa

    try:
        return pa.array(list(values), from_pandas=True)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        raise ManifestError("the data", f"its values are of several types: {error}", column=name) from error


def _ids(names: Sequence[str | None], columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """Return an id a row: the path or content of its first medium, else of its text; the second of them with `#2`."""
    seen: dict[str, int] = {}
    ids = []
    for row, name in enumerate(names):
        base = one_form(name or f"text-{_digest(str(columns.get('text', names)[row]).encode())[:12]}")
        seen[base] = seen.get(base, 0) + 1
        ids.append(base if seen[base] == 1 else f"{base}#{seen[base]}")
    return ids


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()
