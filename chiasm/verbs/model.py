"""Models: a recogniser with what it belongs to, kept as a folder.

A recogniser knows arrays only. A model also knows the encoder whose embeddings these are, the column they were labelled
by and which items it has seen. Fitting one is `chiasm.verbs.fit`, retraining it with corrected labels `chiasm.verbs.learn`.
It is replaced by a new version, the one before is kept, and `revert_model` goes back to it: see `chiasm.saved.Versions`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float16, Int64

from chiasm import __version__
from chiasm.encoders.licence import PretrainedModel
from chiasm.encoders.tuned import is_tuned
from chiasm.errors import ChiasmError
from chiasm.files import write_whole
from chiasm.recognition import ModalityArrays, Recognizer
from chiasm.recognition.reasons import Faithfulness
from chiasm.saved import Versions, check_fields, read_arrays, read_object, write_arrays, write_object
from chiasm.space import Space
from chiasm.types import MODALITIES, Modality
from chiasm.vectors import unit_rows
from chiasm.verbs.card import model_card
from chiasm.verbs.ranking import owner_number

FORMAT, FORMAT_VERSION = "chiasm-model", 9
SUFFIXES = (".html", ".md", ".json")
MODELS = "models"  # in the folder of a collection: models that were made on the page
REFERENCE_ROWS = 500  # of each modality
_ABOUT, _RECOGNIZER, _REFERENCE = "about.json", "recognizer", "reference.safetensors"
_LEFT_OUT, _SPACE, _COLLECTED = "left-out", "space", "collected.safetensors"
_FAITHFULNESS = "faithfulness.json"
_AREAS = ("deletion", "deletion_error", "insertion", "insertion_error")
_LARGEST_REFERENCE = 2**26  # bytes


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Contents that a recogniser learned from, and the outputs of the heads of its folds on items that they did not see.

    Attributes:
        contents: digests of the items' contents, see `chiasm.verbs.dataset.Labelled`.
        outputs: by column, a row an item; NaN where no fold could hold it out.
        others: contents of items of a source.
    """

    contents: tuple[str, ...] = ()
    outputs: Mapping[str, Float[np.ndarray, "items outputs"]] = field(default_factory=dict)
    others: frozenset[str] = frozenset()

    @cached_property
    def rows(self) -> dict[str, int]:
        """The row of each content; of equal ones, which no split divides, any."""
        return {content: row for row, content in enumerate(self.contents)}

    def knows(self, contents: Sequence[str]) -> Bool[np.ndarray, " items"]:
        """Return which contents were learned from, of whatever items they are."""
        return np.array([one in self.rows or one in self.others for one in contents], dtype=bool)


@dataclass(frozen=True, eq=False)
class Model:
    """A recogniser with what it was fitted on.

    Attributes:
        recognizer: of one or several columns.
        encoder: name of the encoder, hub id or folder.
        label: the column that it predicts, several with commas between.
        fingerprints: modality -> fingerprint of the encoder that embedded it.
        trained_on: ids of the items that it learned from.
        report: what `fit` found out, for people.
        reference: embeddings of some of the items that it learned from, by modality, see `reference_of`. They are kept in
            the model's folder: whoever has the model has them. Without any, drift cannot be told.
        left_out: what `evaluate` needs to measure it on the items that it learned from.
        pretrained: the networks that embedded them, with their licences.
        space: that was learned elsewhere, and that items are placed in; None: the start of the encoders.
        version: under which it is stored; empty for a model that is not.
        collected: numbers (`chiasm.verbs.ranking.owner_number`) of the contents of all items that the collection had when it
            was fitted, so that those are known that came since.
    """

    recognizer: Recognizer
    encoder: str
    label: str
    fingerprints: Mapping[Modality, str]
    trained_on: frozenset[str]
    report: Mapping[str, Any]
    reference: Mapping[Modality, Float16[np.ndarray, "rows dim"]] = field(default_factory=dict)
    left_out: HeldOut = HeldOut()  # frozen
    pretrained: tuple[PretrainedModel, ...] = ()
    space: Space | None = None
    version: str = ""
    collected: Int64[np.ndarray, " items"] = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def card(self) -> str:
        """The card, see `chiasm.verbs.card`; it lies beside the model as `README.md`."""
        return model_card(self.report, self.encoder, self.pretrained)

    def check(self, fingerprints: Mapping[Modality, str]) -> None:
        """Whether embeddings of these encoders are what it learned from.

        Raises:
            ChiasmError: they are of another encoder.
        """
        for modality, fingerprint in self.fingerprints.items():
            if fingerprints.get(modality) != fingerprint:
                raise ChiasmError(
                    f"the model was fitted on {modality} embeddings of another encoder ({fingerprint}, here "
                    f"{fingerprints.get(modality, 'none')}). Fit it again on this collection, or move that to the "
                    f"model's encoder (chiasm reembed COLLECTION --encoder {self.encoder})"
                )

    def require_record(self, purpose: str) -> None:
        """Refuse what needs to know which items the model has learned from, of one that was promised not to tell.

        Args:
            purpose: what cannot be done then, in words.

        Raises:
            ChiasmError: it was fitted with differential privacy.
        """
        if self.report.get("privacy"):
            raise ChiasmError(
                f"the model was fitted with differential privacy and keeps no record of what it has learned from, so {purpose}. "
                "Recognise labelled items that it has never seen (chiasm predict), and count"
            )


def save_model(folder: Path, model: Model, *, expected: str | None = None) -> str:
    """Write a model and return its version; one that is there stays as the version before, the one before that goes.

    Args:
        folder: of the model; made where there is none.
        model: to write.
        expected: the version that must still be the current one.

    Raises:
        ChiasmError: the folder holds something else, its current version is another one, or it cannot be written.
    """
    return _versions(folder).write(lambda draft: _write(draft, model), expected=expected)


def load_model(folder: Path) -> Model:
    """Read the current version of a model, also while it is being replaced.

    Raises:
        ChiasmError: there is none, it is of another version of the format, or it is damaged.
    """
    return _versions(folder).read(_read)


def model_version(folder: Path) -> str:
    """Return the current version, which changes when the model is replaced. Cheap enough to ask every few seconds.

    Raises:
        ChiasmError: there is no model.
    """
    return _versions(folder).current


def revert_model(folder: Path) -> str:
    """Go back to the version before, and return it; a second time undoes the first.

    Corrections stay, and would be learned again: delete wrong ones first.

    Raises:
        ChiasmError: there is no version before, or the disk cannot be written to.
    """
    return _versions(folder).revert()


def forget_items(folder: Path, ids: Set[str], contents: Set[str]) -> int:
    """Take what a model keeps of single items out of it, if it learned from some of these. Return from how many.

    Its examples, its sample of embeddings and the version before are gone for good. The weights stay: they have learned from
    these items until it is fitted again.

    Args:
        folder: of the model.
        ids: of the items.
        contents: digests of the items' contents, see `chiasm.verbs.dataset.Labelled`.

    Raises:
        ChiasmError: there is no model, or it cannot be written.
    """
    versions = _versions(folder)
    versions.keep(previous=True)  # what a killed run has left behind goes
    model = load_model(folder)
    learned = max(_learned_from(_read(version), ids, contents) for version in versions.folders)
    if learned:
        keep = [content not in contents for content in model.left_out.contents]
        left_out = HeldOut(
            tuple(np.array(model.left_out.contents, dtype=object)[keep]),
            {column: outputs[keep] for column, outputs in model.left_out.outputs.items()},
            model.left_out.others - contents,
        )
        gone = np.array([owner_number(content) for content in contents], dtype=np.int64)
        bare = replace(
            model,
            recognizer=model.recognizer.without_items(),
            trained_on=model.trained_on - ids,
            reference={},
            left_out=left_out,
            collected=model.collected[~np.isin(model.collected, gone)],
        )
        save_model(folder, bare, expected=model.version)
        versions.keep(previous=False)
    return learned


def _learned_from(model: Model, ids: Set[str], contents: Set[str]) -> int:
    return max(len(model.trained_on & ids), int(model.left_out.knows(sorted(contents)).sum()))


def keep_faithfulness(
    folder: Path, version: str, column: str, faithfulness: Mapping[Modality, Faithfulness], measured: str
) -> None:
    """Keep how faithful the reasons of a column are beside the version of a model that this was measured of.

    Args:
        folder: of the model.
        version: of it.
        column: that it predicts.
        faithfulness: by modality.
        measured: on what, in words.

    Raises:
        OSError: it cannot be written.
    """
    media = {
        name: {"method": one.method, "items": one.items} | {area: getattr(one.curves, area) for area in _AREAS}
        for name, one in faithfulness.items()
    }
    kept = _kept_faithfulness(folder, version)
    write_object(folder / version / _FAITHFULNESS, {**kept, column: {"measured": measured, "media": media}})


def read_faithfulness(folder: Path, version: str, column: str) -> dict[str, Any]:
    """Return what `keep_faithfulness` kept of a column, as JSON; nothing where it was not measured, or is damaged."""
    kept: dict[str, Any] | None = _kept_faithfulness(folder, version).get(column)
    if not isinstance(kept, dict):
        return {}
    try:
        check_fields(kept, measured=str, media=dict)
        for one in kept["media"].values():
            check_fields({"modality": one}, modality=dict)
            check_fields(one, method=str, items=int, **dict.fromkeys(_AREAS, (int, float)))
    except ValueError:
        return {}
    return {**kept, "media": {name: one for name, one in kept["media"].items() if name in MODALITIES}}


def _kept_faithfulness(folder: Path, version: str) -> dict[str, Any]:
    try:
        return read_object(folder / version / _FAITHFULNESS)
    except (OSError, ValueError):
        return {}


def _versions(folder: Path) -> Versions:
    make = f"Make one: chiasm fit COLLECTION --label COLUMN --out {folder}"
    return Versions(folder, "model.json", FORMAT, FORMAT_VERSION, "model", make, ChiasmError)


def _write(draft: Path, model: Model) -> None:
    left_out = model.left_out
    about = {
        "by": __version__,
        "encoder": model.encoder,
        "label": model.label,
        "fingerprints": dict(model.fingerprints),
        "pretrained": [asdict(one) for one in model.pretrained],
        "trained_on": sorted(model.trained_on),
        "report": dict(model.report),
    }
    model.recognizer.save(draft / _RECOGNIZER)
    write_arrays(draft / _COLLECTED, {"items": model.collected})
    if model.reference:
        write_arrays(draft / _REFERENCE, model.reference)
    write_object(draft / _ABOUT, about)
    write_whole(draft / "README.md", model.card)
    if model.space is not None:
        model.space.save(draft / _SPACE)
    if left_out.contents or left_out.others:
        columns = [*left_out.outputs]
        write_arrays(
            draft / f"{_LEFT_OUT}.safetensors", {str(n): left_out.outputs[name] for n, name in enumerate(columns)}
        )
        described = {"contents": left_out.contents, "columns": columns, "others": sorted(left_out.others)}
        write_object(draft / f"{_LEFT_OUT}.json", described)


def _read(source: Path) -> Model:
    about = read_object(source / _ABOUT)
    check_fields(about, encoder=str, label=str, fingerprints=dict, pretrained=list, trained_on=list, report=dict)
    return Model(
        Recognizer.load(source / _RECOGNIZER),
        _beside(about["encoder"], source),
        about["label"],
        about["fingerprints"],
        frozenset(about["trained_on"]),
        about["report"],
        _read_reference(source / _REFERENCE, about["fingerprints"]),
        _read_left_out(source),
        tuple(map(PretrainedModel.from_dict, about["pretrained"])),
        Space.load(source / _SPACE) if (source / _SPACE).exists() else None,
        source.name,
        _read_collected(source / _COLLECTED),
    )


def _beside(encoder: str, version: Path) -> str:
    """Return the encoder of a model; where its folder has moved with the model, that beside the model."""
    moved = version.parent.with_name(Path(encoder).name)
    is_lost = Path(encoder).is_absolute() and not is_tuned(encoder)
    return str(moved) if is_lost and is_tuned(str(moved)) else encoder


def _read_left_out(source: Path) -> HeldOut:
    if not (source / f"{_LEFT_OUT}.json").exists():
        return HeldOut()
    described = read_object(source / f"{_LEFT_OUT}.json")
    check_fields(described, contents=list, columns=list, others=list)
    arrays = read_arrays(source / f"{_LEFT_OUT}.safetensors")
    outputs = {str(name): arrays[str(number)] for number, name in enumerate(described["columns"])}
    contents = tuple(map(str, described["contents"]))
    if any(one.dtype.kind != "f" or one.ndim != 2 or len(one) != len(contents) for one in outputs.values()):
        raise ValueError(f"{_LEFT_OUT}.json and its arrays do not fit")
    return HeldOut(contents, outputs, frozenset(map(str, described["others"])))


def _read_collected(path: Path) -> Int64[np.ndarray, " items"]:
    numbers = read_arrays(path).get("items")
    if numbers is None or numbers.dtype != np.int64 or numbers.ndim != 1 or numbers.min(initial=0) < 0:
        raise ValueError(f"{path.name} should hold a row of whole numbers")
    return numbers


def _read_reference(path: Path, known: Mapping[Modality, str]) -> dict[Modality, Float16[np.ndarray, "rows dim"]]:
    """Read the sample of embeddings that a model keeps, if it keeps any."""
    if not path.exists():
        return {}
    sample = read_arrays(path, most=_LARGEST_REFERENCE)
    if any(rows.dtype != np.float16 or rows.ndim != 2 or not np.isfinite(rows).all() for rows in sample.values()):
        raise ValueError(f"{path.name} should hold finite matrices of float16")
    return {modality: sample[modality] for modality in known if modality in sample}


# ------------------------------------------------------------------------------------------- what a model is made of


def reference_of(arrays: ModalityArrays, *, seed: int = 0) -> dict[Modality, Float16[np.ndarray, "rows dim"]]:
    """Draw embeddings to keep with a model, so that drift can be told without the collection: up to 500 a modality.

    Args:
        arrays: of the items that it learns from.
        seed: of the draw.
    """
    sample: dict[Modality, Float16[np.ndarray, "rows dim"]] = {}
    rng = np.random.default_rng(seed)
    for modality in arrays.modalities:
        # As the encoder gave them, or in the shared space where it embeds into that; of unit length, as a model scales them.
        every = arrays.vectors[modality] if modality in arrays.vectors else arrays.shared[modality]
        rows = unit_rows(every[arrays.present[modality]].astype(np.float64))
        if len(rows) > REFERENCE_ROWS:
            rows = rows[np.sort(rng.choice(len(rows), REFERENCE_ROWS, replace=False))]
        sample[modality] = rows.astype(np.float16)
    return sample


def check_report(path: str | Path | None) -> None:
    """Refuse a report that could not be written, before the work and not after it.

    Raises:
        ChiasmError: the suffix is none of .html, .md and .json, or the folder is not there.
    """
    if path is None:
        return
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ChiasmError(f"a report is written as {', '.join(SUFFIXES)}; got {Path(path).name}")
    if not Path(path).absolute().parent.is_dir():
        raise ChiasmError(f"the folder of the report {path} does not exist: make it first")
