"""Linear heads from sums over items: exact for several parties, none of which shows an item to another.

Ridge regression of the classes needs counts, sums and products of feature rows (`PairStatistics`, with a column of zeros and
ones for each class as the anchors), and these add up. Strength and temperature follow from the same sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Shaped

from chiasm.alignment.closed_form import STRENGTHS, ridge_of
from chiasm.alignment.pairs import PairStatistics
from chiasm.errors import LabelError
from chiasm.recognition.columns import Details, Fitted
from chiasm.recognition.heads import Head
from chiasm.recognition.modalities import Features, ModalityArrays
from chiasm.recognition.recognizer import Recognizer
from chiasm.types import Modality


@dataclass(frozen=True, eq=False)
class LabelStatistics:
    """Sums over the labelled items of one or several parties: all that a ridge head needs.

    Attributes:
        label: the column.
        names: of its classes, sorted.
        own: numbers of each modality's own embeddings.
        shared: numbers of each modality's vectors in the shared space.
        sums: of feature rows, not centred, and of a column of zeros and ones for each class.

    Example:
        >>> X = {"image": np.array([[1.0, 0.1], [0.9, 0.0], [0.1, 1.0], [0.0, 0.9]], np.float32)}
        >>> y = np.array(["bird", "bird", "fish", "fish"])
        >>> parts = [LabelStatistics.of("kind", ModalityArrays(X).take(np.array(rows)), y[rows]) for rows in ([0, 2], [1, 3])]
        >>> (parts[0] + parts[1]).recognizer().predict({"image": np.array([[0.8, 0.2]], np.float32)}).tolist()
        ['bird']
    """

    label: str
    names: tuple[str, ...]
    own: Mapping[Modality, int]
    shared: Mapping[Modality, int]
    sums: PairStatistics

    @classmethod
    def of(cls, label: str, arrays: ModalityArrays, labels: Shaped[np.ndarray, " items"]) -> LabelStatistics:
        """Sum up items that have all of some modalities."""
        names, codes = np.unique(labels.astype(str), return_inverse=True)
        own = {name: vectors.shape[1] for name, vectors in arrays.vectors.items()}
        shared = {name: vectors.shape[1] for name, vectors in arrays.shared.items()}
        features = _features(own, shared)
        rows = features.rows(arrays, features.modalities, np.arange(len(arrays)))
        sums = PairStatistics.from_pairs(rows, np.eye(len(names))[codes])
        return cls(label, tuple(names.tolist()), own, shared, sums)

    @property
    def features(self) -> Features:
        """The way from embeddings to rows: not centred, so that rows do not depend on who else takes part."""
        return _features(self.own, self.shared)

    def named(self, names: tuple[str, ...]) -> LabelStatistics:
        """Return the same sums with columns for more classes, in the order of the names."""
        place = [names.index(name) for name in self.names]
        sums = self.sums
        sum_y, xy = np.zeros(len(names)), np.zeros((len(sums.sum_x), len(names)))
        yy = np.zeros((len(names), len(names)))
        sum_y[place], xy[:, place], yy[np.ix_(place, place)] = sums.sum_y, sums.xy, sums.yy
        return replace(self, names=names, sums=replace(sums, sum_y=sum_y, xy=xy, yy=yy))

    def __add__(self, other: LabelStatistics) -> LabelStatistics:
        if (self.label, dict(self.own), dict(self.shared)) != (other.label, dict(other.own), dict(other.shared)):
            raise LabelError(
                f"statistics of {self.label!r} from {self._described} cannot be added to statistics of {other.label!r} from "
                f"{other._described}: all parties need the same column, modalities and encoders"
            )
        names = tuple(sorted({*self.names, *other.names}))
        return replace(self.named(names), sums=self.named(names).sums + other.named(names).sums)

    @property
    def _described(self) -> str:
        parts = [
            f"{name} ({self.own.get(name, 0)} + {self.shared.get(name, 0)} numbers)"
            for name in self.features.modalities
        ]
        return " and ".join(parts)

    def recognizer(self) -> Recognizer:
        """Return a recogniser with a ridge head for each modality and one for all of them.

        The strength is that of the least generalised cross-validation error (Golub, Heath & Wahba 1979, Technometrics
        21(2), equation 1.4), which the sums give exactly. Outputs are divided by that error: if a class's output has normal
        errors of that size, these are the log-probabilities.

        Raises:
            LabelError: there are fewer than two classes.
        """
        if len(self.names) < 2:
            raise LabelError(
                f"a recogniser needs at least two classes; the statistics have {', '.join(self.names) or 'none'} in {self.label!r}"
            )
        features = self.features
        every = features.modalities
        subsets = [(name,) for name in every] + ([every] if len(every) > 1 else [])
        heads = {subset: self._head(subset) for subset in subsets}
        numbers = {"+".join(subset): dict(head.numbers) for subset, head in heads.items()}
        details = Details(kind="classes", metric="f1_macro", subsets={}, numbers=numbers)
        recognizer = Recognizer(adapter="linear", unknown=None)
        column = Fitted(
            self.label,
            "classes",
            np.array(self.names),
            features,
            heads,
            details,
            main=every,
            counts=np.round(self.sums.sum_y).astype(np.int64),
        )
        recognizer.columns_, recognizer.together_ = {self.label: column}, ()
        return recognizer

    def _head(self, subset: tuple[Modality, ...]) -> Head:
        """Solve for one set of modalities, whose columns stand alone in rows of their own length."""
        features = self.features
        every = features.modalities
        blocks, lengths = features.blocks(every), []
        wanted = [block for name in subset for words, block in blocks.items() if words.split(" ")[0] == name]
        columns = np.concatenate([np.arange(block.start, block.stop) for block in wanted])
        for name in subset:
            now, then = features.lengths(name, len(subset)), features.lengths(name, len(every))
            lengths += [now[part] / then[part] for part, has in enumerate((self.own, self.shared)) if name in has]
        scale = np.concatenate(
            [np.full(b.stop - b.start, one, np.float64) for b, one in zip(wanted, lengths, strict=True)]
        )
        sums = self.sums
        part = replace(
            sums,
            sum_x=sums.sum_x[columns] * scale,
            xx=sums.xx[np.ix_(columns, columns)] * np.outer(scale, scale),
            xy=sums.xy[columns] * scale[:, None],
        )
        strength, error = _least_error(part)
        weight, bias = ridge_of(part.moments, strength)
        tensors = {
            "coef": np.ascontiguousarray((weight / error).T.astype(np.float32)),
            "intercept": (bias / error).astype(np.float32),
        }
        return Head("linear", np.arange(len(self.names)), tensors, {"strength": strength}, sums.count)


def _features(own: Mapping[Modality, int], shared: Mapping[Modality, int]) -> Features:
    zeros = ({name: np.zeros(width, np.float32) for name, width in part.items()} for part in (own, shared))
    return Features(*zeros)


def _least_error(sums: PairStatistics) -> tuple[float, float]:
    """Return the strength of the least generalised cross-validation error, and that error of an output: mean of its square."""
    moments = sums.moments
    values, _, turned = moments.spectrum
    squares = np.square(turned).sum(axis=1)
    best = (STRENGTHS[-1], np.inf)
    for strength in STRENGTHS:
        lifted = values + strength * moments.scale
        lifted = np.where(lifted > 0, lifted, 1.0)
        error = np.trace(moments.yy) - 2 * (squares / lifted).sum() + (squares * values / lifted**2).sum()
        free = 1 - (1 + (values / lifted).sum()) / sums.count
        score = float(max(error, 0.0) / max(free, 1e-3) ** 2) / len(sums.sum_y)
        if score < best[1]:
            best = (strength, score)
    return best[0], max(best[1], 1e-4)
