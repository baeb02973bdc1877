"""Statistics of labels, and models that are fitted on those of several parties: see `chiasm.recognition.pooled`."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path

import numpy as np

from chiasm import encoders
from chiasm.alignment.pairs import PairStatistics
from chiasm.encoders.licence import PretrainedModel
from chiasm.encoders.runtime import Device
from chiasm.errors import LabelError
from chiasm.files import one_form
from chiasm.recognition.pooled import LabelStatistics
from chiasm.recognition.targets import infer_kind
from chiasm.saved import DAMAGE
from chiasm.store.collection import Collection
from chiasm.types import Modality
from chiasm.verbs.dataset import labelled_items
from chiasm.verbs.fit import FitReport
from chiasm.verbs.measure import details_of
from chiasm.verbs.model import HeldOut, Model, save_model
from chiasm.verbs.spaces import start_of


@dataclass(frozen=True, eq=False)
class PartyStatistics:
    """Sums of one party, with what they belong to."""

    sums: LabelStatistics
    encoder: str
    fingerprints: Mapping[Modality, str]
    pretrained: tuple[PretrainedModel, ...]
    ids: frozenset[str] = frozenset()  # of the items, where these are one's own
    contents: tuple[str, ...] = ()

    def save(self, path: str | Path) -> None:
        """Write one file, without ids and contents."""
        sums = self.sums
        about = {
            "names": list(sums.names),
            "own": dict(sums.own),
            "shared": dict(sums.shared),
            "encoder": self.encoder,
            "fingerprints": dict(self.fingerprints),
            "pretrained": [asdict(one) for one in self.pretrained],
        }
        sums.sums.save(path, {"label": sums.label, "about": json.dumps(about, sort_keys=True)})

    @classmethod
    def load(cls, path: str | Path) -> PartyStatistics:
        """Read what `save` wrote.

        Raises:
            LabelError: it holds statistics of pairs, or is damaged.
            SpaceError: it is no file of statistics.
        """
        sums, metadata = PairStatistics.load(path)
        if "label" not in metadata:
            raise LabelError(
                f"{path} holds statistics of pairs, for align. Those of labels: chiasm statistics COLLECTION --label COLUMN"
            )
        try:
            about = json.loads(metadata["about"])
            names = tuple(map(str, about["names"]))
            own, shared = ({name: int(width) for name, width in about[part].items()} for part in ("own", "shared"))
            labelled = LabelStatistics(metadata["label"], names, own, shared, sums)
            if sums.shape != (labelled.features.width(labelled.features.modalities), len(names)):
                raise ValueError(f"matrices of {sums.shape} for {len(names)} classes")
            pretrained = tuple(map(PretrainedModel.from_dict, about["pretrained"]))
            return cls(labelled, str(about["encoder"]), dict(about["fingerprints"]), pretrained)
        except DAMAGE as error:
            raise LabelError(
                f"{path} is damaged ({type(error).__name__}: {error}). Write it again: chiasm statistics"
            ) from error

    def check(self, other: PartyStatistics, path: str | Path) -> PartyStatistics:
        """Return the other one, where its embeddings can be added to these.

        Raises:
            LabelError: it is of another encoder, or of other modalities.
        """
        if dict(self.fingerprints) != dict(other.fingerprints):
            raise LabelError(
                f"{path} has statistics of other encoders ({_described(other)}) than the first ({_described(self)}), which cannot be "
                "added up. Embed with one encoder (chiasm reembed), take the same --modalities, and write it again"
            )
        return other


def _described(party: PartyStatistics) -> str:
    return f"{party.encoder}: " + ", ".join(f"{name} {one}" for name, one in party.fingerprints.items())


def label_statistics(
    collection: str | Path,
    label: str,
    *,
    modalities: Sequence[Modality] | None = None,
    where: str | None = None,
    device: Device = "auto",
) -> PartyStatistics:
    """Return the sums of a collection's labelled items, of those that have all of the modalities.

    Raises:
        LabelError: no such column, it is not one of classes, or no item has all of the modalities.
    """
    opened = Collection.open(collection)
    networks = encoders.resolve(opened.encoder, device=device)
    data = labelled_items(
        opened, networks, start_of(opened, networks), [label], modalities=modalities, where=where, alike=2
    )
    ((column, values),) = data.values.items()
    if (kind := infer_kind(values, column=column)) != "classes":  # one class is enough: other parties have the others
        raise LabelError(f"statistics are of a column of classes, and {column!r} is one of {kind}")
    whole = np.flatnonzero(np.all([data.arrays.present[name] for name in data.fingerprints], axis=0))
    if not len(whole):
        raise LabelError(
            f"no item of {opened.path.name} has all of {', '.join(data.fingerprints)}. Name those that count: --modalities"
        )
    data = data.take(whole)
    sums = LabelStatistics.of(column, data.arrays, data.labels)
    models = tuple(one for one in opened.generation.models if set(one.modalities) & set(data.fingerprints))
    return PartyStatistics(
        sums, opened.encoder, dict(data.fingerprints), models, frozenset(data.ids), tuple(data.contents)
    )


def fit_pooled(
    parties: Sequence[str | Path],
    label: str,
    *,
    out: str | Path,
    modalities: Sequence[Modality] | None = None,
    where: str | None = None,
    device: Device = "auto",
) -> FitReport:
    """Fit a ridge head on the sums of several parties, files and collections, exactly as on all their items together.

    Raises:
        LabelError: a party's statistics are of another column, encoder or set of modalities; or there is one class only.
    """
    loaded: list[PartyStatistics] = []
    for path in parties:
        if Path(path).is_file():
            party = PartyStatistics.load(path)
        else:
            party = label_statistics(path, label, modalities=modalities, where=where, device=device)
        if party.sums.label != one_form(label):
            raise LabelError(f"{path} has statistics of {party.sums.label!r}, not of {label!r}")
        loaded.append(loaded[0].check(party, path) if loaded else party)
    sums = reduce(operator.add, (party.sums for party in loaded))
    recognizer = sums.recognizer()
    first = loaded[0]
    result = FitReport(
        model=str(Path(out)),
        label=sums.label,
        classes=sums.names,
        modalities=sums.features.modalities,
        items=sums.sums.count,
        unlabelled=0,
        measured=f"nothing: sums of {len(loaded)} parties hold no items to leave out. Measure it on others: chiasm evaluate {out} COLLECTION",
        metrics={},
        chosen=details_of(recognizer),
        unknown_classes={},
        duplicates="",
    )
    own = frozenset[str]().union(*(party.ids for party in loaded))
    contents = frozenset(content for party in loaded for content in party.contents)
    model = Model(
        recognizer, first.encoder, sums.label, first.fingerprints, own, result.as_dict(),
        left_out=HeldOut(others=contents), pretrained=first.pretrained,
    )  # fmt: skip
    save_model(Path(out), model)
    return result
