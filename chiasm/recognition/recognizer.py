"""The recogniser: embeddings of items by modality -> labels, whatever modalities an item has.

This module is the estimator: it checks what comes in, predicts, and keeps a fitted recogniser on disk. How it learns is
`chiasm.recognition.fitting`; turning files into embeddings is left to `chiasm.verbs`. Predicting needs numpy alone:
scikit-learn and torch, which take seconds to import, are loaded by `fit` (torch also to predict by a learned fusion).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from safetensors import SafetensorError

from chiasm.errors import ChiasmError, LabelError
from chiasm.recognition.confidence import Calibration, ConformalSets
from chiasm.recognition.extension import extend_linear
from chiasm.recognition.fitting import (
    Choices,
    Details,
    Fitted,
    FusionName,
    SemiName,
    SourceItems,
    fit,
)
from chiasm.recognition.heads import Head, RungName
from chiasm.recognition.ladder import RungOptions, RungReport
from chiasm.recognition.modalities import (
    Arrays,
    Features,
    ModalityArrays,
    Subset,
    as_arrays,
    refuse_empty_items,
)
from chiasm.recognition.storage import (
    DESCRIPTION,
    read_description,
    read_tensors,
    refuse_version,
    write_folder,
)
from chiasm.recognition.unknown import ScoreName, UnknownDetector
from chiasm.splits import Labels, label_codes
from chiasm.types import Modality

FORMAT, VERSION = "chiasm-recognizer", 4


@dataclass(frozen=True, eq=False)
class Recognition:
    """What a recogniser says of some items.

    Attributes:
        labels: the most probable class of each.
        probabilities: calibrated, in the order of `Recognizer.classes_`.
        sets: the classes that hold the true one with the probability asked for; all of them where the recogniser has
            learned from too few items to promise anything.
        unknown: whether an item is like nothing known, at the false-alarm rate asked for; False where the recogniser
            has no detector.
        strangeness: p-value of being a known class, small is strange; NaN without a detector.
    """

    labels: Shaped[np.ndarray, " items"]
    probabilities: Float[np.ndarray, "items classes"]
    sets: Bool[np.ndarray, "items classes"]
    unknown: Bool[np.ndarray, " items"]
    strangeness: Float[np.ndarray, " items"]


class Recognizer:
    """Recognise the class of an item from the embeddings of whatever modalities it has.

    For every set of modalities that training items have, one head is fitted on all items that have at least these: an
    item with image and text teaches the image head, too. An item is recognised by the head of just the set it has, so
    that a missing modality costs no more than its own information.

    A set has no head of its own if its items lack a class that one of its modalities knows, or are fewer than 0.9 of
    those of its scarcest modality; one modality has none if its items are all of one class. An item with such a set is
    recognised by the largest sets within it that have heads, together: the geometric mean of their probabilities, each
    smoothed by one imaginary item divided among all classes, so that a class unknown to one of them is not ruled out.
    (Measured on stamps with 10 labels a class of each modality: the joint head of 2, 5 and 8 items a class gave
    macro-F1 0.49, 0.69 and 0.76, the mean of the two heads 0.79. With as many items as the modalities have, the joint
    head was as good.) Modalities that the recogniser was not fitted on are not looked at.

    It follows scikit-learn's conventions for a classifier, with `ModalityArrays` in the place of a matrix.

    Args:
        adapter: the rung of the ladder: `"zero-shot"`, `"prototypes"`, `"tip-adapter"`, `"linear"`, `"residual"`,
            `"mlp"`, or `"auto"`, which climbs by nested cross-validation and takes a higher rung only if it wins by more
            than one standard error (`chiasm.recognition.ladder`).
        fusion: how modalities are joined: `"concat"` (features side by side), `"mean"` and `"stack"` (of the single
            modalities' probabilities), `"gated"`, `"attention"`, `"low_rank"` (networks), `"single"` (the best modality
            alone), or `"auto"`.
        alpha: weight of the source, or `"auto"`.
        semi: use of unlabelled items, `"self-training"`, `"spreading"` or None.
        unknown: score by which items of no known class are told, `"auto"`, or None to leave that out.
        folds: of the cross-validations.
        class_weight: `"balanced"` gives every class the same total weight; a mapping gives weights by class.
        options: of the rungs.
        network: arguments of `chiasm.recognition.fusion.Fusion` for the learned fusions, but for its kind.
        random_state: seed of folds and networks.

    Attributes:
        classes_: the classes, sorted.
        fitted_: all that predicting needs.
        details_: what was tried and chosen, for reports.
    """

    classes_: Shaped[np.ndarray, " classes"]
    fitted_: Fitted

    def __init__(
        self,
        *,
        adapter: RungName | Literal["auto"] = "auto",
        fusion: FusionName | Literal["auto"] = "auto",
        alpha: float | Literal["auto"] = "auto",
        semi: SemiName | None = None,
        unknown: ScoreName | Literal["auto"] | None = "auto",
        folds: int = 5,
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        options: RungOptions | None = None,
        network: Mapping[str, Any] | None = None,
        random_state: int = 0,
    ) -> None:
        self.adapter = adapter
        self.fusion = fusion
        self.alpha = alpha
        self.semi = semi
        self.unknown = unknown
        self.folds = folds
        self.class_weight = class_weight
        self.options = options
        self.network = network
        self.random_state = random_state

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002  scikit-learn's signature
        """The arguments of the constructor by name."""
        return {name: getattr(self, name) for name in _PARAMETERS}

    def set_params(self, **params: Any) -> Recognizer:
        """Set arguments of the constructor by name.

        Raises:
            ValueError: there is no such argument.
        """
        for name, value in params.items():
            if name not in _PARAMETERS:
                raise ValueError(f"Recognizer has no parameter {name!r}; it has {', '.join(_PARAMETERS)}")
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(),
            input_tags=InputTags(two_d_array=False, dict=True),
        )

    @property
    def details_(self) -> Details:
        """What was tried and chosen on held-out items of the training set."""
        self._check_fitted()
        return self.fitted_.details

    def fit(
        self,
        X: Arrays,
        y: Labels,
        groups: Labels | None = None,
        *,
        names: Mapping[Any, Float[np.ndarray, " dim"]] | None = None,
        source: SourceItems | None = None,
        unlabelled: ModalityArrays | None = None,
    ) -> Recognizer:
        """Learn from labelled items, each with at least one modality.

        Args:
            X: their embeddings.
            y: one label an item.
            groups: items of one group are never on both sides of a fold.
            names: the embedded name of each class, in the space that `ModalityArrays.shared` is of: one more shot, and
                all that the zero-shot rung needs. A name of a class without items makes it known by its name.
            source: items of another domain. Those whose class is among those of y are learned from.
            unlabelled: more items of this domain, for `semi`.

        Raises:
            LabelError: labels are missing, of one class only or not one an item; items without any modality; no
                modality with items of two classes; no class of the source is known; or the adapter asked for cannot be
                fitted.
            ChiasmError: the embeddings are not usable, see `ModalityArrays`; names, source or unlabelled items are not
                embedded as the items are; or there is no such choice.
        """
        arrays = as_arrays(X)
        own, codes = label_codes(y)
        if len(codes) != len(arrays):
            raise LabelError(f"there are {len(arrays)} items but {len(codes)} labels: give one label an item")
        if own.dtype.kind not in KINDS:
            raise LabelError(f"labels must be text, numbers or booleans; got {own.dtype}")
        refuse_empty_items(arrays, arrays.modalities)
        if len(own) < 2:
            raise LabelError(f"all {len(codes)} labels are {own[0]!s}: at least 2 classes are needed")
        if groups is not None and np.shape(groups) != codes.shape:
            raise LabelError(
                f"there are {len(codes)} items but groups of shape {np.shape(groups)}: give one group an item"
            )
        group = None if groups is None else label_codes(groups, what="groups")[1]
        classes = own if not names else _joined(own, list(names), "names of classes")
        for other, what in ((None if source is None else source.arrays, "source"), (unlabelled, "unlabelled items")):
            if other is not None:
                _refuse_unlike(other, arrays, what)
        codes = np.searchsorted(classes, own)[codes]
        choices = Choices(
            adapter=self.adapter,
            fusion=self.fusion,
            alpha=self.alpha,
            semi=self.semi,
            unknown=self.unknown,
            folds=self.folds,
            options=replace(self.options or RungOptions(), class_weight=self._weights(classes)),
            network=self.network or {},
            seed=self.random_state,
        )
        self.fitted_ = fit(
            arrays,
            classes,
            codes,
            choices=choices,
            groups=group,
            names=_names(names, classes, arrays),
            source=None if source is None else _known(source, classes),
            unlabelled=unlabelled,
        )
        self.classes_ = classes
        return self

    def predict_proba(self, X: Arrays) -> Float[np.ndarray, "items classes"]:
        """The calibrated probability of each class, in the order of `classes_`.

        Raises:
            LabelError: items have none of the modalities that the recogniser was fitted on; says how many and which.
            ChiasmError: embeddings are of another width than in `fit`, or not usable, see `ModalityArrays`.
        """
        arrays, known = self._checked(X)
        probabilities = np.empty((len(arrays), len(self.classes_)), dtype=np.float64)
        for subset, rows in arrays.by_subset(known):
            probabilities[rows] = self._probabilities(arrays, subset, rows)
        return probabilities

    def predict(self, X: Arrays) -> Shaped[np.ndarray, " items"]:
        """The most probable class of each item.

        Raises:
            LabelError: as `predict_proba`.
            ChiasmError: as `predict_proba`.
        """
        best = self.predict_proba(X).argmax(axis=1)
        labels: Shaped[np.ndarray, " items"] = self.classes_[best]
        return labels

    def recognise(self, X: Arrays, *, level: float = 0.9, false_alarm_rate: float = 0.05) -> Recognition:
        """Labels with probabilities, the set of classes that may be right, and what is like nothing known.

        Args:
            X: embeddings.
            level: how often the set of classes is to hold the true one.
            false_alarm_rate: the share of items of known classes that may be called unknown.

        Raises:
            LabelError: as `predict_proba`.
            ChiasmError: as `predict_proba`, or a level or rate that is not between 0 and 1.
        """
        if not 0 < level < 1 or not 0 < false_alarm_rate < 1:
            raise ChiasmError(
                f"level and false-alarm rate must be between 0 and 1, such as 0.9 and 0.05; got {level} and "
                f"{false_alarm_rate}"
            )
        arrays, known = self._checked(X)
        number = len(self.classes_)
        probabilities = np.empty((len(arrays), number))
        sets = np.ones((len(arrays), number), dtype=bool)
        unknown = np.zeros(len(arrays), dtype=bool)
        strangeness = np.full(len(arrays), np.nan)
        for subset, rows in arrays.by_subset(known):
            probabilities[rows] = self._probabilities(arrays, subset, rows)
            promised = self.fitted_.sets.get(subset)
            if promised is not None:
                sets[rows] = promised.sets(probabilities[rows], level=level)
            within = [part for part in self.fitted_.detectors if set(part) <= set(subset)]
            if within:
                part = max(within, key=len)
                detector = self.fitted_.detectors[part]
                scores = detector.scores(self.fitted_.features.rows(arrays, part, rows))
                unknown[rows] = detector.is_unknown(scores, false_alarm_rate=false_alarm_rate)
                strangeness[rows] = detector.p_values(scores)
        return Recognition(self.classes_[probabilities.argmax(axis=1)], probabilities, sets, unknown, strangeness)

    def score(self, X: Arrays, y: Labels) -> float:
        """The share of items whose class is recognised.

        Raises:
            LabelError: as `predict_proba`, or labels are missing.
            ChiasmError: as `predict_proba`.
        """
        classes, codes = label_codes(y)
        return float(np.mean(self.predict(X) == classes[codes]))

    def add_class(self, X: Arrays, y: Labels) -> Recognizer:
        """A recogniser that knows more classes, from examples of the new ones alone; this one stays as it is.

        The rows of the old classes in every head stay bit by bit as they were, and a new row is fitted beside them, with
        up to 20 stored examples of each old class on the other side. Old classes among themselves are told apart as
        before. Calibration, conformal sets and the detector of unknown items were learned without the new classes and
        are dropped: fit again to have them. So is the head of a set of modalities of which there are no examples of a
        new class that another head learns; its items are recognised by the heads of the parts.

        Args:
            X: examples of new classes.
            y: their labels, none of them known.

        Raises:
            LabelError: a label is known already, or of another kind than the others; examples lack the one modality
                that the recogniser goes by; or the heads are not linear (the rungs tip-adapter, residual and mlp, stacked
                and learned fusions): fit again.
            ChiasmError: the embeddings are not usable.
        """
        arrays, known = self._checked(X)
        new, codes = label_codes(y)
        if len(codes) != len(arrays):
            raise LabelError(f"there are {len(arrays)} items but {len(codes)} labels: give one label an item")
        old = self.fitted_
        repeated = np.intersect1d(new, self.classes_)
        if len(repeated):
            raise LabelError(
                f"{', '.join(map(str, repeated[:5]))} known already: add_class takes new classes; fit again"
            )
        if not all(head.is_linear for head in old.heads.values()) or old.network is not None or old.stack is not None:
            raise LabelError(
                f"classes can be added to linear heads only, not to {old.details.rung} with {old.fusion} fusion: fit again "
                "with all classes"
            )
        if old.fusion == "single" and set(new) - set(
            new[codes[arrays.having((old.best,))]] if old.best in known else ()
        ):
            raise LabelError(f"the recogniser goes by {old.best} alone: give examples of every new class that have it")
        number = len(self.classes_)
        _joined(self.classes_, new.tolist(), "new classes")
        every = np.concatenate([self.classes_, new])
        order = np.argsort(every, kind="stable")
        place = np.empty(len(every), dtype=np.int64)
        place[order] = np.arange(len(every))
        heads = {}
        for part, head in old.heads.items():
            if not set(part) <= set(known) or not len(arrays.having(part)):
                heads[part] = replace(head, classes=place[head.classes])
                continue
            rows, kept = arrays.having(part), old.exemplars.having(part)
            kept = kept[np.isin(old.exemplar_codes[kept], head.classes)]
            # Classes known by their name alone have no examples to tell the new ones from.
            seen, exemplar_codes = np.unique(old.exemplar_codes[kept], return_inverse=True)
            facing = np.searchsorted(head.classes, seen)
            known_new, dense = np.unique(codes[rows], return_inverse=True)
            extended = extend_linear(
                head.tensors["coef"][facing],
                head.tensors["intercept"][facing],
                exemplars=old.features.rows(old.exemplars, part, kept),
                exemplar_codes=exemplar_codes,
                new_X=old.features.rows(arrays, part, rows),
                new_codes=dense + len(seen),
                strength=head.numbers.get("strength", 1.0),
                old_counts=np.maximum(old.counts[seen], 1),
            )
            joint = np.concatenate([place[head.classes], place[number + known_new]])
            sorting = np.argsort(joint)
            tensors = {
                "coef": np.vstack([head.tensors["coef"], extended.coef[len(seen) :]])[sorting],
                "intercept": np.append(head.tensors["intercept"], extended.intercept[len(seen) :])[sorting],
            }
            heads[part] = Head(head.rung, joint[sorting], tensors, head.numbers, head.items + len(rows))
        for part in [part for part in heads if len(part) > 1]:
            others = [heads[one].classes for one in heads if set(one) < set(part)]
            if not np.isin(np.concatenate(others), heads[part].classes).all():
                del heads[part]
        grown = Recognizer(**self.get_params())
        grown.classes_ = every[order]
        counts = np.zeros(len(every), dtype=np.int64)
        counts[place[:number]] = old.counts
        counts[place[number:]] = np.bincount(codes)
        grown.fitted_ = replace(
            old,
            classes=grown.classes_,
            heads=heads,
            calibrations={},
            sets={},
            detectors={},
            exemplars=old.exemplars.joined(arrays.only(old.features.modalities)),
            exemplar_codes=np.concatenate([place[old.exemplar_codes], place[number + codes]]),
            counts=counts,
        )
        return grown

    def strengths(self) -> dict[str, float]:
        """What each head chose, by names such as "image+text": the strength of a linear probe."""
        self._check_fitted()
        return {
            "+".join(part): head.numbers["strength"]
            for part, head in self.fitted_.heads.items()
            if "strength" in head.numbers
        }

    def save(self, folder: str | Path) -> None:
        """Write the recogniser as a folder of JSON and safetensors, whole or not at all.

        A recogniser that was saved there before is replaced. The `options` of the rungs, which fitting alone needs, are
        not kept.

        Raises:
            ChiasmError: the folder exists and is something else.
        """
        self._check_fitted()
        target = Path(folder)
        if target.exists() and not (target / DESCRIPTION).is_file():
            raise ChiasmError(f"{target} exists and is not a saved recogniser: choose another folder")
        write_folder(target, *describe(self))

    @classmethod
    def load(cls, folder: str | Path) -> Recognizer:
        """Read a recogniser that `save` wrote. Runs no code from the folder.

        Raises:
            ChiasmError: there is none, it is of another version, or it is damaged.
        """
        source = Path(folder)
        description = read_description(source, "recogniser")
        if description.get("format") != FORMAT:
            raise ChiasmError(
                f"{source / DESCRIPTION} is not of a recogniser: format {FORMAT!r} was expected, got "
                f"{description.get('format')!r}"
            )
        refuse_version(source, description.get("version"), VERSION)
        try:
            return restore(description, read_tensors(source))
        except (KeyError, TypeError, ValueError, IndexError, OSError, SafetensorError, ChiasmError) as error:
            raise ChiasmError(
                f"{source} is damaged ({type(error).__name__}: {error}): save the recogniser again"
            ) from error

    def _check_fitted(self) -> None:
        if not hasattr(self, "fitted_"):
            from sklearn.exceptions import NotFittedError

            raise NotFittedError("this Recognizer is not fitted yet: call fit, or load a saved one")

    def _checked(self, X: Arrays) -> tuple[ModalityArrays, Subset]:
        """The arrays, and the modalities among them that the recogniser knows."""
        self._check_fitted()
        arrays, features = as_arrays(X), self.fitted_.features
        own = {name: len(mean) for name, mean in features.own.items()}
        shared = {name: len(mean) for name, mean in features.shared.items()}
        for part, widths in ((arrays.vectors, own), (arrays.shared, shared)):
            for name, array in part.items():
                if name in widths and array.shape[1] != widths[name]:
                    raise ChiasmError(
                        f"{name}: expected embeddings of width {widths[name]}, as in fit; got {array.shape[1]}. "
                        "Use the encoder that the recogniser was fitted with"
                    )
        known = tuple(name for name in arrays.modalities if name in features.modalities)
        for name in known:
            lacking = [
                what
                for what, part, needed in (
                    ("its own embeddings", arrays.vectors, name in features.own),
                    ("vectors in the shared space", arrays.shared, name in features.shared),
                )
                if needed and name not in part
            ]
            if lacking:
                raise ChiasmError(f"{name}: the recogniser was fitted with {' and '.join(lacking)}; give them, too")
        refuse_empty_items(arrays, known, fitted=features.modalities)
        return arrays, known

    def _probabilities(
        self, arrays: ModalityArrays, subset: Subset, rows: Int[np.ndarray, " rows"]
    ) -> Float[np.ndarray, "rows classes"]:
        log = self.fitted_.log_probabilities(arrays, subset, rows)
        calibration = self.fitted_.calibrations.get(subset)
        if calibration is not None:
            return calibration.apply(log)
        probabilities: Float[np.ndarray, "rows classes"] = np.exp(log)
        return probabilities

    def _weights(self, classes: Shaped[np.ndarray, " classes"]) -> Mapping[int, float] | Literal["balanced"] | None:
        """Weights by class number."""
        if isinstance(self.class_weight, str) and self.class_weight != "balanced":
            raise ChiasmError(f"class_weight must be None, 'balanced' or a mapping; got {self.class_weight!r}")
        if self.class_weight is None or isinstance(self.class_weight, str):
            return self.class_weight
        return {k: float(self.class_weight.get(label, 1.0)) for k, label in enumerate(classes.tolist())}


_PARAMETERS = (
    "adapter", "fusion", "alpha", "semi", "unknown", "folds", "class_weight", "options", "network", "random_state",
)  # fmt: skip
KINDS = {"U": "text", "i": "int", "u": "int", "f": "float", "b": "bool"}


def _names(
    names: Mapping[Any, Float[np.ndarray, " dim"]] | None,
    classes: Shaped[np.ndarray, " classes"],
    arrays: ModalityArrays,
) -> tuple[Float[np.ndarray, "named dim"], Int[np.ndarray, " named"]] | None:
    """Embedded names as a matrix, and the class of each by number."""
    if not names:
        return None
    if not arrays.shared:
        raise ChiasmError("names of classes need a shared space: give the items' vectors in it as `shared`")
    width = next(iter(arrays.shared.values())).shape[1]
    rows = [np.asarray(vector, dtype=np.float32) for vector in names.values()]
    bad = [label for label, row in zip(names, rows, strict=True) if row.shape != (width,) or not np.isfinite(row).all()]
    if bad:
        raise ChiasmError(
            f"names of classes must be finite vectors of width {width}, as the shared space has; that of {bad[0]!s} is not"
        )
    return np.stack(rows), np.searchsorted(classes, np.array(list(names)))


def _joined(own: Shaped[np.ndarray, " classes"], more: list[Any], what: str) -> Shaped[np.ndarray, " all"]:
    """Classes and more of them, all of one kind."""
    other = label_codes(more, what=what)[0]
    if (own.dtype.kind == "U") != (other.dtype.kind == "U"):
        raise LabelError(
            f"{what} are such as {other[0].item()!r} where labels are such as {own[0].item()!r}: make them of one kind"
        )
    return np.union1d(own, other)


def _refuse_unlike(other: ModalityArrays, arrays: ModalityArrays, what: str) -> None:
    """Items beside the labelled ones must be embedded as these are."""
    for name in arrays.modalities:
        for kind, mine, theirs in (
            ("its own embedding", arrays.vectors, other.vectors),
            ("its vector in the shared space", arrays.shared, other.shared),
        ):
            widths = [part[name].shape[1] if name in part else None for part in (mine, theirs)]
            if name in other.modalities and widths[0] != widths[1]:
                raise ChiasmError(
                    f"{what}: {name} must be embedded as the items learned from; {kind} is of width {widths[1]}, there "
                    f"{widths[0]}"
                )


def _known(
    source: SourceItems, classes: Shaped[np.ndarray, " classes"]
) -> tuple[ModalityArrays, Int[np.ndarray, " known"]]:
    """Return the items of a source whose class is among those of the target."""
    if np.shape(source.labels) != (len(source.arrays),):
        raise LabelError(f"the source has {len(source.arrays)} items but labels of shape {np.shape(source.labels)}")
    theirs, codes = label_codes(source.labels, what="labels of the source")
    same = (theirs.dtype.kind == "U") == (classes.dtype.kind == "U")
    shared = np.flatnonzero(np.isin(theirs, classes)[codes]) if same else np.arange(0)
    if not len(shared):
        raise LabelError(
            f"no label of the source, such as {theirs[:1].tolist()}, is among the {len(classes)} classes of the target, "
            f"such as {classes[0]!s}: rename them, or leave the source out"
        )
    return source.arrays.take(shared), np.searchsorted(classes, theirs[codes[shared]])


# ------------------------------------------------------------------------------------------------------------- on disk


def describe(model: Recognizer) -> tuple[dict[str, Any], dict[str, Shaped[np.ndarray, "..."]]]:
    """A fitted recogniser as JSON fields and arrays."""
    fitted = model.fitted_
    tensors: dict[str, Shaped[np.ndarray, "..."]] = {}
    for kind, means in (("own", fitted.features.own), ("shared", fitted.features.shared)):
        tensors |= {f"mean.{kind}.{name}": mean for name, mean in means.items()}
    heads = [(part, head) for part, head in fitted.heads.items()]
    if fitted.stack is not None:
        heads.append(((), fitted.stack))
    described = []
    for part, head in heads:
        tensors |= {f"head.{'+'.join(part)}.{key}": value for key, value in head.tensors.items()}
        described.append(
            {
                "modalities": list(part),
                "rung": head.rung,
                "classes": head.classes.tolist(),
                "tensors": sorted(head.tensors),
                "numbers": dict(head.numbers),
                "items": head.items,
            }
        )
    worth: dict[str, list[dict[str, Any]]] = {"calibrations": [], "sets": [], "detectors": []}
    for part, calibration in fitted.calibrations.items():
        worth["calibrations"].append({"modalities": list(part), "fields": calibration.as_fields()})
    for what, parts in (("sets", fitted.sets), ("detectors", fitted.detectors)):
        for part, thing in parts.items():
            arrays = thing.as_arrays()
            tensors |= {f"{what}.{'+'.join(part)}.{key}": value for key, value in arrays.items()}
            worth[what].append({"modalities": list(part), "fields": thing.as_fields(), "arrays": sorted(arrays)})
    for kind, given in (("vectors", fitted.exemplars.vectors), ("shared", fitted.exemplars.shared)):
        tensors |= {f"exemplars.{kind}.{name}": array for name, array in given.items()}
    tensors |= {f"exemplars.present.{name}": mask for name, mask in fitted.exemplars.present.items()}
    tensors["exemplars.codes"] = fitted.exemplar_codes
    network = None
    if fitted.network is not None:
        arrays, network = fitted.network
        tensors |= {f"network.{name}": array for name, array in arrays.items()}
    weight = model.class_weight
    parameters = {name: getattr(model, name) for name in _PARAMETERS if name not in {"options", "class_weight"}}
    parameters["network"] = dict(model.network) if model.network else None
    description = {
        "format": FORMAT,
        "version": VERSION,
        "parameters": parameters,
        "class_weight": weight
        if weight is None or isinstance(weight, str)
        else [[_plain(label), float(value)] for label, value in weight.items()],
        "classes": {"kind": KINDS[fitted.classes.dtype.kind], "values": fitted.classes.tolist()},
        "counts": fitted.counts.tolist(),
        "fusion": fitted.fusion,
        "main": list(fitted.main),
        "best": fitted.best,
        "own": {name: len(mean) for name, mean in fitted.features.own.items()},
        "shared": {name: len(mean) for name, mean in fitted.features.shared.items()},
        "heads": described,
        **worth,
        "network": network,
        "details": fitted.details.as_dict(),
    }
    return description, {name: np.ascontiguousarray(value) for name, value in tensors.items()}


def restore(description: dict[str, Any], tensors: dict[str, Shaped[np.ndarray, "..."]]) -> Recognizer:
    """The recogniser that `describe` was given.

    Raises:
        KeyError, TypeError, ValueError, IndexError, ChiasmError: the parts do not fit together.
    """

    def read(name: str, *shape: int | None) -> Float[np.ndarray, "..."]:
        tensor: Float[np.ndarray, "..."] = tensors[name]
        fits = len(tensor.shape) == len(shape) and all(
            wanted in (None, got) for wanted, got in zip(shape, tensor.shape, strict=True)
        )
        if not fits or tensor.dtype.kind != "f" or not np.isfinite(tensor).all():
            raise ValueError(f"{name} should be finite floats of shape {shape}, got {tensor.dtype} {tensor.shape}")
        return tensor

    kind = {"text": np.str_, "int": np.int64, "float": np.float64, "bool": np.bool_}[description["classes"]["kind"]]
    classes: Shaped[np.ndarray, " classes"] = np.array(description["classes"]["values"], dtype=kind)
    counts = np.array(description["counts"], dtype=np.int64)
    if len(counts) != len(classes):
        raise ValueError(f"{len(classes)} classes but {len(counts)} counts")
    features = Features(
        {name: read(f"mean.own.{name}", width) for name, width in description["own"].items()},
        {name: read(f"mean.shared.{name}", width) for name, width in description["shared"].items()},
    )
    heads: dict[Subset, Head] = {}
    stack = None
    for entry in description["heads"]:
        part: Subset = tuple(entry["modalities"])
        if entry["rung"] not in get_args(RungName) or set(part) - set(features.modalities):
            raise ValueError(f"a head {entry['rung']!r} of {part}")
        known = np.array(entry["classes"], dtype=np.int64)
        if not np.isin(known, np.arange(len(classes))).all():
            raise ValueError(f"{part} has classes that the recogniser does not have")
        name = "+".join(part)
        arrays = {key: tensors[f"head.{name}.{key}"] for key in entry["tensors"]}
        for key, array in arrays.items():
            if array.dtype.kind != "f" or not np.isfinite(array).all():
                raise ValueError(f"head.{name}.{key} should be finite floats")
        head = Head(entry["rung"], known, arrays, entry["numbers"], int(entry["items"]))
        width = features.width(part) if part else len(description["main"]) * len(classes)
        probe = head.logits(np.zeros((1, width), np.float32))  # arrays that do not fit together fail here
        if probe.shape != (1, len(known)):
            raise ValueError(f"a head of {part} has {probe.shape[1]} logits for {len(known)} classes")
        if part:
            heads[part] = head
        else:
            stack = head
    network = description["network"]
    if not heads or {(name,) for name in features.modalities} != {part for part in heads if len(part) == 1}:
        raise ValueError("every modality needs a head of its own")
    calibrations = {
        tuple(entry["modalities"]): Calibration.from_fields(entry["fields"]) for entry in description["calibrations"]
    }
    worth: dict[str, dict[Subset, Any]] = {"sets": {}, "detectors": {}}
    restorers = {"sets": ConformalSets, "detectors": UnknownDetector}
    for what, found in worth.items():
        for entry in description[what]:
            part = tuple(entry["modalities"])
            given = {key: tensors[f"{what}.{'+'.join(part)}.{key}"] for key in entry["arrays"]}
            found[part] = restorers[what].from_arrays(given, entry["fields"])  # type: ignore[attr-defined]

    def examples(kind: str) -> dict[Modality, Any]:
        prefix = f"exemplars.{kind}."
        return {name: tensors[prefix + name] for name in features.modalities if prefix + name in tensors}

    exemplar_codes = tensors["exemplars.codes"]
    exemplars = ModalityArrays(examples("vectors"), examples("present"), examples("shared"))
    if exemplar_codes.shape != (len(exemplars),) or not np.isin(exemplar_codes, np.arange(len(classes))).all():
        raise ValueError("stored examples and their classes do not fit")
    details = dict(description["details"])
    details["rungs"] = tuple(RungReport(**entry) for entry in details["rungs"])
    details["across"] = tuple(details["across"])
    if details["fusion_gain"] is not None:
        details["fusion_gain"] = tuple(details["fusion_gain"])
    weight = description["class_weight"]
    recognizer = Recognizer(
        **description["parameters"], class_weight=dict(weight) if isinstance(weight, list) else weight
    )
    main: Subset = tuple(description["main"])
    if description["fusion"] not in get_args(FusionName) or description["best"] not in features.modalities:
        raise ValueError(f"fusion {description['fusion']!r} with {description['best']!r}")
    recognizer.classes_ = classes
    recognizer.fitted_ = Fitted(
        classes,
        features,
        heads,
        description["fusion"],
        main,
        description["best"],
        stack,
        None
        if network is None
        else (
            {name.removeprefix("network."): a for name, a in tensors.items() if name.startswith("network.")},
            network,
        ),
        calibrations,
        worth["sets"],
        worth["detectors"],
        exemplars,
        exemplar_codes,
        counts,
        Details(**details),
    )
    return recognizer


def _plain(label: Any) -> Any:
    return label.item() if isinstance(label, np.generic) else label
