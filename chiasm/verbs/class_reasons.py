"""The grounds of each answer of a model over a collection: blocks of features, words, places of pictures, seconds.

A global explanation (Molnar, Interpretable Machine Learning, part "Global model-agnostic methods"), added up from those of
single media, as `chiasm.verbs.explainer` makes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from chiasm import work
from chiasm.errors import MediaError
from chiasm.media.limits import Limits
from chiasm.media.pieces import place_of
from chiasm.recognition import ModalityArrays
from chiasm.recognition.explanations import evidence, mean_contributions
from chiasm.recognition.reasons import ClassReasons, PieceOf, Reason, WordReason
from chiasm.store.collection import Collection
from chiasm.types import Modality
from chiasm.verbs.dataset import embedded_items, modality_arrays
from chiasm.verbs.explainer import Explainer, Part, source_of

SUREST = 10  # media of a modality that an answer's words and places are looked for in
OCCLUDED = 3  # pictures and sounds, where each piece is another run of the network
WORDS, PIECES = 8, 8  # of an answer
PIECES_EACH = 2  # of one medium


def reasons_without_items(explainer: Explainer) -> tuple[ClassReasons, ...]:
    """Return what the classes use by the items that the model keeps for adding classes; none where it keeps none."""
    kept = explainer.column.exemplars
    if kept is None:
        return ()
    return tuple(
        _reasons(explainer, kept.arrays, kept.codes == number, name)
        for name, number in explainer.answers.items()
        if (kept.codes == number).any()
    )


def reasons_of_classes(explainer: Explainer, collection: Collection, limits: Limits) -> Iterator[ClassReasons]:
    """Yield the reasons of each answer that items of a collection get.

    Words, places and seconds are those of the media that the model is surest of, each alone.

    Args:
        explainer: of the column; kinds of reasons that it leaves out are left out.
        collection: of the model's encoders.
        limits: of the media.
    """
    rows = collection.items()
    fingerprints = {name: explainer.encoders[name].fingerprint for name in explainer.modalities}
    found = embedded_items(collection, [row["id"] for row in rows], fingerprints)
    usable = np.flatnonzero(np.any([*found.present.values()], axis=0))
    if not len(usable):
        return
    arrays = modality_arrays(found, explainer.space, explainer.modalities, usable)
    chosen = _given(explainer, arrays)
    for done, (name, number) in enumerate(explainer.answers.items()):
        work.tell(work.Step("answers", done, len(explainer.answers)))
        own = chosen[:, number]
        if not own.any():
            continue
        reasons = _reasons(explainer, arrays, own, name)
        surest = np.flatnonzero(own)[np.argsort(-evidence(explainer.column, arrays, number)[own], kind="stable")]
        words, pieces = _media_reasons(explainer, rows, usable[surest], number, limits)
        yield ClassReasons(reasons.answer, reasons.items, reasons.method, reasons.uses, words, pieces)


def _given(explainer: Explainer, arrays: ModalityArrays) -> Bool[np.ndarray, "items answers"]:
    """Return which items are given which answers; of a number, which are above its median."""
    column, values = explainer.column, explainer.recognise(arrays).values
    if column.kind == "labels":
        return values.astype(bool)
    if column.kind == "number":
        return np.asarray(values > np.median(values))[:, None]
    return np.asarray(values[:, None] == column.names)


def _reasons(
    explainer: Explainer, arrays: ModalityArrays, chosen: Bool[np.ndarray, " items"], answer: str
) -> ClassReasons:
    uses, method = mean_contributions(explainer.column, arrays, chosen, explainer.answers[answer])
    return ClassReasons(answer, int(chosen.sum()), method, uses)


def _media_reasons(
    explainer: Explainer,
    rows: Sequence[Mapping[str, Any]],
    surest: Int[np.ndarray, " items"],
    number: int,
    limits: Limits,
) -> tuple[tuple[WordReason, ...], tuple[PieceOf, ...]]:
    """Return the strongest words, and places and seconds, of an answer; `surest` are its items, the surest first."""
    sums: dict[str, float] = {}
    texts: Counter[str] = Counter()
    pieces: list[PieceOf] = []
    for modality in explainer.modalities:
        if modality == "video" or modality in explainer.left_out:
            continue
        looked = 0
        for item, part in _parts(explainer, modality, [rows[row] for row in surest], limits):
            weighed = explainer.weigh([part], 0, explainer.item([part]), number)
            reasons = [
                Reason(place_of(piece), float(weight), piece.start, piece.end, piece.box)
                for piece, weight in zip(weighed.pieces, weighed.weights, strict=True)
            ]
            looked += 1
            if modality == "text":
                for reason in reasons:
                    word = reason.piece.casefold()
                    sums[word] = sums.get(word, 0.0) + reason.weight
                texts.update({reason.piece.casefold() for reason in reasons})
            else:
                strongest = sorted(reasons, key=lambda one: -one.weight)[:PIECES_EACH]
                pieces += [PieceOf(item, part.path or "", modality, one) for one in strongest if one.weight > 0]
            if looked == (OCCLUDED if modality != "text" and weighed.method == "occlusion" else SUREST):
                break
        if modality == "text" and looked:
            sums = {word: weight / looked for word, weight in sums.items()}
    strongest_words = sorted((word for word in sums if sums[word] > 0), key=lambda word: -sums[word])[:WORDS]
    words = tuple(WordReason(word, sums[word], texts[word]) for word in strongest_words)
    return words, tuple(sorted(pieces, key=lambda one: -one.reason.weight)[:PIECES])


def _parts(
    explainer: Explainer, modality: Modality, items: Sequence[Mapping[str, Any]], limits: Limits
) -> Iterator[tuple[str, Part]]:
    """Yield the first medium of a modality of each of some items, opened; what cannot be used any more is left out."""
    for item in items:
        if not item[modality]:
            continue
        try:
            part = explainer.embed(source_of(item[modality][0], modality), limits, fewest=1)
        except MediaError:  # gone or changed since it was added
            continue
        if part is not None:
            yield str(item["id"]), part
