"""A served model that is asked with encrypted embeddings: what the server tells of it, and the model as the asker has it."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from chiasm.client import Client
from chiasm.errors import ChiasmError
from chiasm.recognition import Recognizer
from chiasm.recognition.encrypted import Answer, Question, public_part, with_remote_heads
from chiasm.recognition.modalities import Subset
from chiasm.saved import check_fields
from chiasm.verbs.model import Model

_LARGEST = 2**28  # bytes of a public part


def describe(model: Model) -> dict[str, Any]:
    """Return what the server tells of a model: its public part (`chiasm.recognition.encrypted.public_part`), and the encoder.

    Raises:
        ChiasmError: not all of its heads are linear, or it places items in a space that it has learned.
    """
    if model.space is not None:
        raise ChiasmError(
            "the model places items in a space that was learned elsewhere, which the asker does not have. Fit it without --space"
        )
    with TemporaryDirectory(prefix="chiasm-") as folder:
        public_part(model.recognizer).save(folder)
        files = {path.name: b64encode(path.read_bytes()).decode("ascii") for path in Path(folder).iterdir()}
    return {
        "encoder": model.encoder,
        "label": model.label,
        "fingerprints": dict(model.fingerprints),
        "version": model.version,
        "files": files,
    }


def remote_model(client: Client, *, encoder: str | None = None) -> Model:
    """Return a served model whose heads are asked with encrypted embeddings.

    Args:
        client: of the server.
        encoder: that embeds the items here. Default: the offline one, if it is the model's; a server may not choose what
            is downloaded or loaded.

    Raises:
        ChiasmError: the server cannot be asked, has another encoder, or its answer is none.
    """
    about = client.encrypted_model()
    try:
        check_fields(about, encoder=str, label=str, fingerprints=Mapping, version=str, files=Mapping)
        recognizer = _read(about["files"])
    except (ValueError, TypeError) as error:
        raise ChiasmError(
            f"{client.url} does not describe a model ({error}). Is it a chiasm of the same version?"
        ) from error
    if about["encoder"] != (encoder or "offline"):
        raise ChiasmError(
            f"the model of {client.url} was fitted on embeddings of {about['encoder']!r:.200}. If you trust that encoder: --encoder with "
            "this name"
        )

    def ask(column: str, modalities: Subset, question: Question) -> Answer:
        said = client.encrypted_outputs(column, modalities, question, version=about["version"])
        try:
            check_fields(said, parts=list, unit=float)
            return Answer(tuple(b64decode(part, validate=True) for part in said["parts"]), said["unit"])
        except (ValueError, TypeError) as error:
            raise ChiasmError(f"{client.url} gave no encrypted answer ({error})") from error

    return Model(
        with_remote_heads(recognizer, ask), about["encoder"], about["label"], dict(about["fingerprints"]),
        trained_on=frozenset(), report={}, version=about["version"],
    )  # fmt: skip


def _read(files: Mapping[str, Any]) -> Recognizer:
    """Return the recogniser that a server has sent as files, of which only the names that a recogniser has are written."""
    if len(files) != 2 or sum(len(str(one)) for one in files.values()) > _LARGEST:
        raise ValueError(f"{len(files)} files")
    with TemporaryDirectory(prefix="chiasm-") as folder:
        for name, content in files.items():
            if Path(name).name != name or Path(name).suffix not in {".json", ".safetensors"}:
                raise ValueError(f"a file {name!r:.100}")
            (Path(folder) / name).write_bytes(b64decode(content, validate=True))
        return Recognizer.load(folder)
