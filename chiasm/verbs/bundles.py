"""Models and collections as one file each (`.chiasm`), which `chiasm.predict_script` runs without anything else of chiasm.

A zip of ONNX graphs, arrays and JSON:

    about.json                     what it is and what it needs; classes, thresholds, numbers, licences
    README.md                      the card
    predict.py, __main__.py        the script; `python cats.chiasm FILE` runs it
    encode/MODALITY.onnx           pixels or tokens -> embedding;  tokenizer.json
    place/MODALITY.onnx            embedding -> vector in the shared space, where that is needed
    answer/MODALITY+MODALITY.onnx  of a model: embeddings of items with just these modalities -> what they are
    vectors.int8, vectors.scales   of a collection: its vectors in the space, and the scale of each
    thumbnails/NUMBER.jpg          of a collection, where they are wanted
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from chiasm import __version__, encoders, predict_script, work
from chiasm.encoders.base import Encoder, Portable, fingerprints_of, first_of
from chiasm.encoders.licence import models_of
from chiasm.errors import ChiasmError, EncoderError, MediaError
from chiasm.files import strict_json, write_whole
from chiasm.media import words_of
from chiasm.recognition.columns import Fitted, route
from chiasm.recognition.confidence import ConformalScores
from chiasm.recognition.modalities import Subset, subsets
from chiasm.report.forms import show_dimensions
from chiasm.report.page import Page, thumbnail_jpeg
from chiasm.retrieval.shortening import directions, kept_by
from chiasm.shipping.graphs import alarm_of, answer_graph, known_of, place_graph
from chiasm.shipping.half import in_half
from chiasm.shipping.web import page_of
from chiasm.shipping.whole import whole_graph
from chiasm.space import Space, start_space
from chiasm.store.collection import Collection
from chiasm.types import MODALITIES, Modality
from chiasm.verbs.budget import Budget, as_table, choose, held_out_files, in_words, measure_forms, save_report
from chiasm.verbs.card import model_card, numbers_of
from chiasm.verbs.dataset import shared_block
from chiasm.verbs.export import ExportReport, Form, Format, Precision
from chiasm.verbs.model import Model, check_report, load_model
from chiasm.verbs.spaces import PlacedVectors, open_table, placed_vectors, space_of

_MAIN = b"import sys\n\nimport predict\n\nsys.exit(predict.main([sys.argv[0], *sys.argv[1:]]))\n"
_USE = """```sh
python {name} photo.jpg caption.txt folder
```

or, with chiasm, `chiasm predict {name} FILES`. Either way it needs Python with numpy, onnxruntime, Pillow and tokenizers, and
prints a line of JSON an item. Files of one name (bird.jpg, bird.txt) are one item."""

_LEVEL, _FALSE_ALARMS = 0.9, 0.05  # of a page, where nobody asks for others: as of the script
_SHORTER = (32, 64, 96, 128, 192, 256, 384)  # dimensions of a report
_MOST_WORDS = 200  # characters of a text that are kept beside its vector

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
Parts = dict[str, bytes]
"""The files of a bundle."""


@dataclass(frozen=True)
class Searchable:
    """The parts of a collection that go into its bundle."""

    where: str | None  # items; None: all
    precision: Precision  # of the networks
    dimension: int | None  # of the vectors; None: as they are
    thumbnails: bool
    texts: bool  # whole, with transcripts


def export_collection(
    source: Path, target: Path, wanted: Searchable, *, report: str | Path | None = None
) -> ExportReport:
    """Write a collection to search in as one file, in the place of one that is there.

    Raises:
        ChiasmError: there is none, nothing that can be searched with can be exported, no item meets the condition, the vectors
            are shorter already, or the disk cannot be written to.
    """
    check_report(report)
    return _bundled(target, *_collection(Collection.open(source), target.name, wanted, report))


def export_model(source: Path, target: Path, *, precision: Precision) -> ExportReport:
    """Write a model as one file, in the place of one that is there.

    Raises:
        ChiasmError: there is none, none of its encoders can be exported, or the disk cannot be written to.
    """
    return _bundled(target, *_model(load_model(source), target.name, precision))


def export_within(
    source: Path,
    target: Path,
    *,
    budget: str,
    on: str | Path,
    smaller: str | Path | None,
    report: str | Path | None,
) -> ExportReport:
    """Write the cheapest form of a model, or of a smaller one, that is as good as the full one, as one file.

    Raises:
        ChiasmError: as `export_model`; or the budget is none, the models are not of one column of the same name, too few items
            are held out, or no form stays within the budget.
    """
    check_report(report)
    most = Budget.of(budget)
    models = {"": load_model(source)} | (
        {} if smaller is None else {f"{Path(smaller).name} ": load_model(Path(smaller))}
    )
    held_out = held_out_files([*models.values()], on)
    forms_of: dict[str, tuple[Model, Precision]] = {
        f"{name}{precision}": (saved, precision) for name, saved in models.items() for precision in PRECISIONS
    }
    with TemporaryDirectory() as room:
        files = {form: Path(room) / str(number) for number, form in enumerate(forms_of)}
        for form, own in forms_of.items():
            with suppress(EncoderError):  # float16 does not hold its values
                write_bundle(files[form], model_parts(*own)[0])
        forms, error = measure_forms({form: file for form, file in files.items() if file.exists()}, held_out)
    if report is not None:
        save_report(forms, error, len(held_out.labels), most, source.name, report)
    chosen = choose(forms, error, most)
    saved, precision = forms_of[chosen.name]
    measured = f"This is {chosen.name}.\n\n{as_table(forms, error, len(held_out.labels))}"
    parts, items, notes = _model(saved, target.name, precision, measured=measured)
    return _bundled(target, parts, items, [notes[0], f"{chosen.name}, of {in_words(forms)}", *notes[1:]], forms)


def _bundled(
    target: Path, parts: Parts, items: int, notes: Sequence[str], forms: tuple[Form, ...] = ()
) -> ExportReport:
    """Write a bundle with its script."""
    script = Path(predict_script.__file__).read_bytes()
    try:
        size = write_bundle(target, {**parts, "predict.py": script, "__main__.py": _MAIN})
    except OSError as error:
        raise ChiasmError(f"{target} cannot be written: {error.strerror or error}") from error
    return ExportReport(str(target), "chiasm", items, 0, (), size, tuple(notes), forms)


def export_graph(source: Path, target: Path, *, precision: Precision) -> ExportReport:
    """Write a model as one ONNX graph, from pixels where it knows pictures, else from tokens, to probabilities or the number.

    Raises:
        ChiasmError: there is no model, it has several columns, its encoder cannot be exported, or the disk cannot be written to.
    """
    saved = load_model(source)
    column = _only_column(saved)
    parts, left_out = model_parts(saved, precision)
    modality: Modality = "image" if "answer/image.onnx" in parts else "text"  # one of them, and the column goes by it
    content = whole_graph(
        parts,
        modality=modality,
        outputs={"values.0": "number" if column.kind == "number" else "probabilities"},
        about={"label": saved.label, "names": json.dumps([str(name) for name in column.names])},
    )
    return _written(saved, target, "onnx", content, [f"from {modality} alone", *_reasons(left_out)])


def export_page(source: Path, target: Path, *, precision: Precision) -> ExportReport:
    """Write a model as one HTML page that recognises pictures in a browser.

    Raises:
        ChiasmError: there is no model, it has several columns or knows no pictures, its encoder cannot be exported, the runtime
            cannot be fetched, or the disk cannot be written to.
    """
    saved = load_model(source)
    column = _only_column(saved)
    if "image" not in column.features.modalities:
        raise ChiasmError(
            f"a page recognises pictures, and {source} goes by {', '.join(column.features.modalities)}: texts would be cut into "
            "tokens by the library tokenizers, which has no build for browsers. Export it as a .chiasm file"
        )
    parts, left_out = model_parts(saved, precision)
    if "image" in left_out:
        raise ChiasmError(f"a page recognises pictures, and {left_out['image']}")
    outputs = {"values.0": "values", "strange.0": "strange"}
    graph = whole_graph(parts, modality="image", outputs=outputs, about={})
    limits = _limits(column, ("image",))
    about = {
        "label": saved.label,
        "kind": column.kind,
        "names": [str(name) for name in column.names],
        "side": predict_script.SIDE,
        "thresholds": limits["thresholds"],
        "radius": max((predict_script.quantile(one, _LEVEL) for one in limits["scores"]), default=None),
        "alarm": min((predict_script.quantile(one, 1 - _FALSE_ALARMS) for one in limits["alarm"]), default=None),
    }
    with_all = ", ".join(column.features.modalities)
    facts = [
        f"Made by chiasm {__version__}; learned from {saved.report.get('items', 0)} items, on embeddings by {saved.encoder}.",
        *(f"{one.name}: {one.licence or 'licence unknown'}" for one in saved.pretrained if "image" in one.modalities),
        f"Measured on {saved.report.get('measured', 'nothing')}, of items with {with_all}:",
    ]
    content = page_of(graph, about, facts, numbers_of(saved.report.get("metrics") or {}))
    return _written(saved, target, "html", content.encode(), ["open it in a browser", *_reasons(left_out)])


def _only_column(saved: Model) -> Fitted:
    if len(saved.recognizer.columns_) > 1:
        raise ChiasmError(f"{saved.label} are several columns, and one graph has one: export it as a .chiasm file")
    return saved.recognizer.only_column_


def _written(saved: Model, target: Path, form: Format, content: bytes, notes: Sequence[str]) -> ExportReport:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, content)
    except OSError as error:
        raise ChiasmError(f"{target} cannot be written: {error.strerror or error}") from error
    return ExportReport(str(target), form, len(saved.trained_on), 0, (), len(content), tuple(notes))


def _reasons(left_out: Mapping[Modality, str]) -> list[str]:
    return [f"{modality} is left out: {reason}" for modality, reason in left_out.items()]


def _model(saved: Model, name: str, precision: Precision, *, measured: str = "") -> tuple[Parts, int, list[str]]:
    """Return the bundle of a model, items that it learned from, and notes; `measured` goes into its card."""
    parts, left_out = model_parts(saved, precision)
    missing = _reasons(left_out)
    use = "\n".join([_USE.format(name=name), "", measured, *(f"- {note}" for note in missing)]).rstrip()
    card = model_card(saved.report, saved.encoder, saved.pretrained, use=use)
    return {**parts, "README.md": card.encode()}, len(saved.trained_on), [f"python {name} FILE...", *missing]


def _collection(
    opened: Collection, name: str, wanted: Searchable, report: str | Path | None
) -> tuple[Parts, int, list[str]]:
    """Return the bundle of a collection in its newest space, its items, and notes; write a report on its vectors.

    Raises:
        ChiasmError: no item meets the condition, the vectors are shorter already, or nothing that can be searched with can be
            exported.
    """
    networks = encoders.resolve(opened.encoder, device="cpu")
    owner, space = first_of(networks), space_of(opened, networks, None).space
    items = {str(row["id"]): row for row in opened.items(where=wanted.where)}
    placed = placed_vectors(opened, space)
    rows = np.flatnonzero(np.isin(placed.items, [*items]))
    if not len(rows):
        raise ChiasmError(f"{opened.path} has no item with a vector" + (f" and {wanted.where}" if wanted.where else ""))
    portable, left_out = portable_encoders(owner, tuple(name for name in MODALITIES if name in owner), wanted.precision)
    vectors, basis, notes = placed.vectors[rows], None, []
    if report is not None:
        _save_dimensions(vectors, placed.items[rows], placed.modalities[rows], opened.path.name, report)
    if wanted.dimension is not None:
        basis = directions(vectors, wanted.dimension)
        kept = kept_by(vectors, vectors @ basis, placed.items[rows], placed.modalities[rows])
        notes.append(
            f"{wanted.dimension} of {vectors.shape[1]} dimensions: {kept.recall:.0%} of the 10 nearest are the same"
            + (
                f", hit@10 of another file of the item {kept.hits[1]:.3f} (whole {kept.hits[0]:.3f})"
                if kept.hits
                else ""
            )
        )
        vectors = vectors @ basis
    parts, entries, lacking = _entries(opened, space, items, placed, rows, wanted)
    if lacking:
        notes.append(
            f"{len(lacking)} files cannot be read, and have neither thumbnail nor text: {', '.join(lacking[:3])}"
        )
    parts |= _encoder_parts(portable)
    for modality in portable:
        width, columns = owner[modality].dim, (0, space.dim)
        graph = place_graph(space, modality, width, columns=columns, basis=basis, int8=wanted.precision == "int8")
        parts[f"place/{modality}.onnx"] = graph
    scales = np.maximum(np.abs(vectors).max(axis=1) / 127, 1e-12).astype("<f4")
    parts["vectors.int8"] = np.round(vectors / scales[:, None]).astype(np.int8).tobytes()
    parts["vectors.scales"] = scales.tobytes()
    models = [asdict(one) for one in models_of(owner)]
    about = {"space": space.name, "modalities": {one: {} for one in portable}, "rows": entries, "models": models}
    parts["about.json"] = about_json(about, opened.encoder, wanted.precision, left_out)
    notes += [f"nobody can search with {modality}: {reason}" for modality, reason in left_out.items()]
    use = f'python {name} --search "WORDS"' if "text" in portable else f"python {name} --like PICTURE"
    held = ["the vectors of files, their paths", "small pictures" if wanted.thumbnails else ""]
    held += ["texts" if wanted.texts else "the first words of texts"]
    lines = [f"# {len(items)} items to search in", "", "By [chiasm](https://pypi.org/project/chiasm/)."]
    lines += [f"It holds {', '.join(filter(None, held))}; not the files.", "", f"```sh\n{use}\n```", ""]
    lines += [f"- {note}" for note in notes] + [
        f"- {one['name']}: {one['licence'] or 'licence unknown'}" for one in models
    ]
    return {**parts, "README.md": "\n".join([*lines, ""]).encode()}, len(items), [use, *notes]


def _save_dimensions(
    vectors: Float[np.ndarray, "rows dim"],
    items: Shaped[np.ndarray, " rows"],
    modalities: Shaped[np.ndarray, " rows"],
    name: str,
    path: str | Path,
) -> None:
    """Write what a search still finds with shorter vectors as a report."""
    numbers = [*(one for one in _SHORTER if one < vectors.shape[1]), vectors.shape[1]]
    axes = directions(vectors, numbers[-1])
    kept = [kept_by(vectors, vectors @ axes[:, :number], items, modalities) for number in numbers]
    hits = [one.hits[1] for one in kept if one.hits is not None]
    page = Page(f"Shorter vectors of {name}", f"Measured on {len(vectors)} vectors, see --dimension.", {"seed": "0"})
    show_dimensions(page, numbers, [one.recall for one in kept], hits or None)
    page.save(path)


def _entries(
    opened: Collection,
    space: Space,
    items: Mapping[str, Mapping[str, Any]],
    placed: PlacedVectors,
    rows: Int[np.ndarray, " rows"],
    wanted: Searchable,
) -> tuple[Parts, list[dict[str, Any]], list[str]]:
    """Return thumbnails, what is told of each vector, and files that cannot be read."""
    parts: Parts = {}
    thumbnails: dict[str, str] = {}  # by file: several vectors are of one
    lacking: dict[str, None] = {}
    passages = open_table(opened, space).to_table(columns=["_text"])["_text"] if wanted.texts else None
    entries = []
    for row in work.steps(rows.tolist(), "files"):
        kept, place = placed.slots[row].split("/")
        source = str(items[placed.items[row]][kept][int(place)])
        entry = {"id": placed.items[row], "modality": placed.modalities[row]}
        is_file = kept != "text" or Path(source).is_absolute()
        if is_file:
            entry["path"] = source
        said = None if passages is None else passages[row].as_py()
        if wanted.texts and said is None and kept == "text":
            said = words_of(source)
            lacking |= {source: None} if said is None else {}
        if wanted.thumbnails and kept in ("image", "video") and source not in thumbnails and source not in lacking:
            try:
                parts[f"thumbnails/{len(thumbnails)}.jpg"] = thumbnail_jpeg(Path(source))
                thumbnails[source] = f"thumbnails/{len(thumbnails)}.jpg"
            except MediaError:
                lacking[source] = None
        if said is None and not is_file:
            said = source[:_MOST_WORDS]
        entry |= {"text": said} if said is not None else {}
        entry |= {"thumbnail": thumbnails[source]} if source in thumbnails else {}
        entry |= {"start": placed.starts[row], "end": placed.ends[row]} if np.isfinite(placed.starts[row]) else {}
        entries.append(entry)
    return parts, entries, [*lacking]


def write_bundle(target: Path, parts: Mapping[str, bytes]) -> int:
    """Write a bundle whole or not at all; return its size in bytes."""
    content = BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in parts.items():  # without a time, so that equal contents are equal files
            archive.writestr(zipfile.ZipInfo(name), part, zipfile.ZIP_DEFLATED)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, content.getvalue())
    return len(content.getvalue())


def portable_encoders(
    owner: Mapping[Modality, Encoder], wanted: tuple[Modality, ...], precision: Precision
) -> tuple[dict[Modality, Portable], dict[Modality, str]]:
    """Return what runs the encoders elsewhere, and why others cannot leave.

    Raises:
        ChiasmError: none can, or float16 does not hold one.
    """
    portable: dict[Modality, Portable] = {}
    left_out: dict[Modality, str] = {}
    for modality in wanted:
        try:
            portable[modality] = owner[modality].portable(int8=precision == "int8")
        except EncoderError as error:
            left_out[modality] = str(error)
    if not portable:
        raise ChiasmError("nothing of it can be exported: " + "; ".join(dict.fromkeys(left_out.values())))
    if precision == "fp16":
        portable = {modality: replace(one, graph=in_half(one.graph)) for modality, one in portable.items()}
    return portable, left_out


def model_parts(saved: Model, precision: Precision) -> tuple[Parts, dict[Modality, str]]:
    """Return the bundle of a model but for its card, and the modalities that are left out with the reasons.

    Raises:
        ChiasmError: its encoder is another one by now, or none of its modalities can be exported.
    """
    networks = encoders.resolve(saved.encoder, device="cpu")
    saved.check(fingerprints_of(networks))
    owner, space = first_of(networks), saved.space or start_space(networks)
    columns, int8 = [*saved.recognizer.columns_.values()], precision == "int8"
    used = {name for column in columns for name in column.features.modalities}
    portable, left_out = portable_encoders(owner, tuple(name for name in MODALITIES if name in used), precision)
    placed = [name for name in portable if any(name in column.features.shared for column in columns)]
    parts = _encoder_parts(portable)
    for modality in placed:
        block, width = shared_block(space), owner[modality].dim
        parts[f"place/{modality}.onnx"] = place_graph(space, modality, width, columns=block, int8=int8)
    sets = [own for own in subsets(tuple(portable)) if any(known_of(column, own) for column in columns)]
    for own in sets:
        parts[f"answer/{'+'.join(own)}.onnx"] = answer_graph(columns, own, int8=int8)
    about = {
        "label": saved.label,
        "modalities": {name: {"placed": name in placed} for name in portable},
        "columns": [
            {
                "name": column.column,
                "kind": column.kind,
                "names": [str(name) for name in column.names],
                "limits": {"+".join(own): _limits(column, known) for own in sets if (known := known_of(column, own))},
            }
            for column in columns
        ],
        "measured": dict(saved.report),
        "models": [asdict(one) for one in saved.pretrained],
    }
    parts["about.json"] = about_json(about, saved.encoder, precision, left_out)
    return parts, left_out


def about_json(about: Mapping[str, Any], encoder: str, precision: Precision, left_out: Mapping[Modality, str]) -> bytes:
    """Return `about.json`, by which a bundle is known."""
    head = {"format": predict_script.FORMAT, "version": predict_script.VERSION, "by": __version__}
    return strict_json({**head, "encoder": encoder, "precision": precision, "left_out": left_out, **about}).encode()


def _encoder_parts(portable: Mapping[Modality, Portable]) -> Parts:
    """Return the networks of encoders, and the tokenizer."""
    parts = {f"encode/{modality}.onnx": part.graph for modality, part in portable.items()}
    tokenizer = b"".join(part.tokenizer for part in portable.values())  # of texts
    return {**parts, "tokenizer.json": tokenizer} if tokenizer else parts


def _limits(column: Fitted, known: Subset) -> dict[str, Any]:
    """Return what held-out items say of one set of modalities, by which sets, intervals and alarms are made."""
    part = alarm_of(column, known)
    alarm = [] if part is None else [_scores(column.detectors[part].held_out)]
    thresholds = column.threshold(known).tolist() if column.kind == "labels" else []
    if column.kind == "number":
        own = column.residuals.get(known, column.residuals.get(()))
        heads = () if own is not None else route(column.fusion, known, tuple(column.heads), column.best)
        every = [own] if own is not None else [column.residuals[head] for head in heads if head in column.residuals]
        scores = every if own is not None or len(every) == len(heads) else []
    else:
        promised = column.sets.get(known, column.sets.get(()))
        scores = [] if promised is None else [promised.held_out]
    return {"scores": [*map(_scores, scores)], "alarm": alarm, "thresholds": thresholds}


def _scores(scores: ConformalScores) -> dict[str, Any]:
    return {"kept": scores.kept.tolist(), "count": scores.count}
