"""The recogniser: embeddings of items by modality -> classes, labels or numbers, whatever modalities an item has.

This module is the estimator: it checks what comes in, predicts, and keeps a fitted recogniser on disk. How it learns is
`chiasm.recognition.fitting` (classes), `regressions` (labels, numbers) and `joint` (several columns); turning files into
embeddings is left to `chiasm.verbs`. Predicting needs NumPy alone; scikit-learn and torch, which take seconds to import,
are loaded by `fit`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Float64, Int, Shaped

from chiasm.errors import ChiasmError, LabelError
from chiasm.recognition.adaptation import Shares
from chiasm.recognition.columns import Details, Fitted, FusionName, Recognition
from chiasm.recognition.fitting import Options, fit_classes
from chiasm.recognition.heads import RungName
from chiasm.recognition.joint import ColumnReport, share_network
from chiasm.recognition.ladder import RungOptions
from chiasm.recognition.modalities import (
    Arrays,
    ModalityArrays,
    as_arrays,
    known_modalities,
    refuse_empty_items,
)
from chiasm.recognition.new_classes import add_classes
from chiasm.recognition.regressions import fit_label_column, fit_number_column
from chiasm.recognition.storage import KINDS, damaged, describe_column, read_folder, restore_column, write_folder
from chiasm.recognition.targets import Target
from chiasm.recognition.training_set import SourceItems
from chiasm.recognition.unknown import ScoreName
from chiasm.recognition.unlabelled import SemiName
from chiasm.saved import DAMAGE
from chiasm.splits import Labels, group_codes, label_codes
from chiasm.vectors import Unchecked

Names: TypeAlias = Mapping[Any, Float[np.ndarray, " dim"]]
"""Classes or labels with their embedded names."""


class Recognizer:
    """Recognise the class, labels or number of an item from the embeddings of whatever modalities it has.

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

    It follows scikit-learn's conventions, with `ModalityArrays` in the place of a matrix; as a mapping of modalities is no
    matrix, `sklearn.base` is not imported for it. What is learned follows from y: plain labels are classes; a `Target`
    (`chiasm.recognition.targets.parse_target`) may also be of several labels an item, or a number; a list of targets is
    several columns at once, each predicted alone or by one shared network, whichever does better on held-out items.

    Example:
        >>> X = {"text": np.array([[1.0, 0.1], [0.9, 0.0], [0.1, 1.0], [0.0, 0.9]])}
        >>> recognizer = Recognizer().fit(X, ["bird", "bird", "fish", "fish"])
        >>> recognizer.predict({"text": np.array([[0.8, 0.2]])}).tolist()
        ['bird']

    Args:
        adapter: the rung of the ladder: `"zero-shot"`, `"prototypes"`, `"linear"`, `"network"`, or `"auto"`, which climbs
            by cross-validation and takes a higher rung only if it wins by more than one standard error
            (`chiasm.recognition.ladder`). Of classes, as all arguments down to `class_weight`.
        fusion: how modalities are joined: `"concat"` (features side by side), `"mean"` and `"stack"` (of the single
            modalities' probabilities), `"gated"`, `"attention"` (networks), `"single"` (the best modality alone), or
            `"auto"`.
        alpha: weight of the source, or `"auto"`.
        semi: use of unlabelled items, `"self-training"`, `"spreading"` or None.
        unknown: score by which items of no known class are told, `"auto"`, or None to leave that out.
        class_weight: `"balanced"` gives every class the same total weight; a mapping gives weights by class.
        shares: of classes, with a target domain that has no labels: whether they are as frequent there (`"same"`) or not
            (`"other"`); `"auto"` goes by what is predicted of it, and leaves the domain alone where they seem not to be.
        threshold: of labels, above which probability an item has one; `"f1"` chooses on held-out items.
        folds: of the cross-validations.
        options: of the rungs; of labels and numbers, only its `strengths`; of several columns, only its `network`.
        random_state: seed of folds and networks.

    Attributes:
        columns_: all that predicting needs, by column. The column of plain labels is called "label".
        together_: of several columns, how each did alone and together.
    """

    columns_: dict[str, Fitted]
    together_: tuple[ColumnReport, ...]

    def __init__(
        self,
        *,
        adapter: RungName | Literal["auto"] = "auto",
        fusion: FusionName | Literal["auto"] = "auto",
        alpha: float | Literal["auto"] = "auto",
        semi: SemiName | None = None,
        unknown: ScoreName | Literal["auto"] | None = "auto",
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        shares: Shares = "auto",
        threshold: float | Literal["f1"] = "f1",
        folds: int = 5,
        options: RungOptions | None = None,
        random_state: int = 0,
    ) -> None:
        self.adapter = adapter
        self.fusion = fusion
        self.alpha = alpha
        self.semi = semi
        self.unknown = unknown
        self.class_weight = class_weight
        self.shares = shares
        self.threshold = threshold
        self.folds = folds
        self.options = options
        self.random_state = random_state

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002  scikit-learn's signature
        """Return the arguments of the constructor by name."""
        return {name: getattr(self, name) for name in _DEFAULTS}

    def set_params(self, **params: Any) -> Recognizer:
        """Set arguments of the constructor by name.

        Raises:
            ValueError: there is no such argument.
        """
        for name, value in params.items():
            if name not in _DEFAULTS:
                raise ValueError(f"Recognizer has no parameter {name!r}; it has {', '.join(_DEFAULTS)}")
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
    def classes_(self) -> Shaped[np.ndarray, " classes"]:
        """Return the classes or labels of the only column, sorted."""
        return self.only_column_.names

    @property
    def details_(self) -> Details:
        """Return the choices made for the only column on held-out items of the training set."""
        return self.only_column_.details

    @property
    def only_column_(self) -> Fitted:
        """Return the fitted column.

        Raises:
            AttributeError: there are several.
        """
        self._check_fitted()
        if len(self.columns_) > 1:
            raise AttributeError(f"there are several columns, {', '.join(self.columns_)}: name one")
        return next(iter(self.columns_.values()))

    def fit(
        self,
        X: Arrays,
        y: Labels | Target | Sequence[Target],
        groups: Labels | None = None,
        *,
        names: Names | None = None,
        source: SourceItems | None = None,
        unlabelled: ModalityArrays | None = None,
        domain: ModalityArrays | None = None,
    ) -> Recognizer:
        """Learn from labelled items, each with at least one modality.

        Args:
            X: their embeddings.
            y: one label an item, or one or several columns as `parse_target` returns them. Items may lack values of these.
            groups: items of one group are never on both sides of a fold.
            names: of one column, the embedded name of each class or label, in the space that `ModalityArrays.shared` is of:
                one more shot, and all that the zero-shot rung needs. What has a name and no items is known by its name.
            source: items of another domain. Those whose class is among those of y are learned from.
            unlabelled: more items of this domain, for `semi`.
            domain: items of the target domain without labels, which the recogniser is to be good at; X is its source.

        Raises:
            LabelError: labels are missing, of one class only or not one an item; items without any modality; no
                modality with items of two classes; no class of the source is known; or the adapter asked for cannot be
                fitted.
            ChiasmError: the embeddings are not usable, see `ModalityArrays`; names, source or unlabelled items are not
                embedded as the items are; there is no such choice, or it is for another kind of column.
        """
        arrays = as_arrays(X)
        targets = self._targets(y, arrays, names)
        refuse_empty_items(arrays, arrays.modalities)
        group = None if groups is None else group_codes(groups, len(arrays))
        if domain is not None and (source is not None or unlabelled is not None):
            raise ChiasmError("with a target domain, X is its source: leave source and unlabelled items out")
        others = (
            (None if source is None else source.arrays, "source"),
            (unlabelled, "unlabelled items"),
            (domain, "target domain"),
        )
        for other, what in others:
            if other is not None:
                _refuse_unlike(other, arrays, what)
        if len(targets) > 1 or targets[0].kind != "classes":
            self._refuse_options(targets, source=source, unlabelled=unlabelled, domain=domain, names=names)
        columns = {}
        for target in targets:
            rows = np.flatnonzero(target.known)
            own = None if group is None else np.unique(group[rows], return_inverse=True)[1]
            try:
                columns[target.column] = self._fit_column(
                    target.take(rows),
                    arrays.take(rows),
                    own,
                    names,
                    source,
                    unlabelled,
                    domain,
                    alone=len(targets) == 1,
                )
            except LabelError as error:
                if len(targets) == 1:
                    raise
                raise LabelError(f"column {target.column!r}: {error}") from error
        self.together_ = ()
        if len(targets) > 1:
            network = None if self.options is None else self.options.network
            columns, self.together_ = share_network(
                columns, targets, arrays, groups=group, options=network, seed=self.random_state
            )
        self.columns_ = columns
        return self

    def recognise(
        self, X: Arrays, *, level: float = 0.9, false_alarm_rate: float = 0.05, column: str | None = None
    ) -> Recognition:
        """Predict one column with probabilities, sets or intervals, and what is like nothing known.

        Args:
            X: embeddings.
            level: how often the set of classes, or the interval of a number, is to hold the true one.
            false_alarm_rate: the share of items of known classes that may be called unknown.
            column: which; may be left out where there is one.

        Raises:
            LabelError: items have none of the modalities that the column was fitted on; says how many and which.
            ChiasmError: embeddings are of another width than in `fit`, or not usable, see `ModalityArrays`; there is no
                such column; or a level or rate that is not between 0 and 1.
        """
        self._check_fitted()
        if not 0 < level < 1 or not 0 < false_alarm_rate < 1:
            raise ChiasmError(
                f"level and false-alarm rate must be between 0 and 1, such as 0.9 and 0.05; got {level} and "
                f"{false_alarm_rate}"
            )
        fitted = self._column(column)
        try:
            arrays, known = known_modalities(as_arrays(X), fitted.features)
        except LabelError as error:
            if len(self.columns_) == 1:
                raise
            raise LabelError(f"column {fitted.column!r}: {error}") from error
        return fitted.recognise(arrays, known, level=level, false_alarm_rate=false_alarm_rate)

    def recognise_all(self, X: Arrays, *, level: float = 0.9, false_alarm_rate: float = 0.05) -> dict[str, Recognition]:
        """Predict every column, as `recognise` does one."""
        self._check_fitted()
        return {
            column: self.recognise(X, level=level, false_alarm_rate=false_alarm_rate, column=column)
            for column in self.columns_
        }

    def predict(self, X: Arrays, *, column: str | None = None) -> Shaped[np.ndarray, "items ..."]:
        """Return the most probable class of each item, booleans by label, or numbers.

        Raises:
            LabelError, ChiasmError: as `recognise`.
        """
        return self.recognise(X, column=column).values

    def predict_proba(self, X: Arrays, *, column: str | None = None) -> Float64[np.ndarray, "items classes"]:
        """Return the calibrated probability of each class or label, in the order of `classes_`.

        Raises:
            LabelError, ChiasmError: as `recognise`; or the column is a number.
        """
        self._check_fitted()
        if self._column(column).kind == "number":
            raise ChiasmError("a number has no probabilities: see the interval that recognise gives")
        return self.recognise(X, column=column).probabilities

    def score(self, X: Arrays, y: Labels) -> float:
        """Return the share of items whose class is recognised.

        Raises:
            LabelError, ChiasmError: as `recognise`, labels are missing, or what was learned are no classes.
        """
        if self.only_column_.kind != "classes":
            raise LabelError(f"score is of classes; this recogniser predicts {self.only_column_.kind}")
        classes, codes = label_codes(y)
        return float(np.mean(self.predict(X) == classes[codes]))

    def add_class(self, X: Arrays, y: Labels) -> Recognizer:
        """Return a recogniser that knows more classes, from examples of the new ones alone; this one stays as it is.

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
                that the recogniser goes by; or the heads are not linear (networks, stacked and learned fusions): fit
                again.
            ChiasmError: the embeddings are not usable.
        """
        self._check_fitted()
        if len(self.columns_) > 1 or self.only_column_.kind != "classes":
            raise LabelError("classes can be added to a recogniser of one column of classes: fit again")
        old = self.only_column_
        arrays, known = known_modalities(as_arrays(X), old.features)
        new, codes = _class_codes(y, len(arrays))
        repeated = np.intersect1d(new, old.names)
        if len(repeated):
            raise LabelError(
                f"{', '.join(map(str, repeated[:5]))} known already: add_class takes new classes; fit again"
            )
        _union(old.names, new.tolist(), "new classes")
        grown = Recognizer(**self.get_params())
        grown.columns_ = {old.column: add_classes(old, arrays, known, new, codes)}
        grown.together_ = ()
        return grown

    def without_items(self) -> Recognizer:
        """Return a recogniser of the same predictions that keeps no single item: no examples, no neighbours.

        Classes cannot be added to it, and where strange items are told by their neighbours they no longer are.
        """
        self._check_fitted()
        bare = Recognizer(**self.get_params())
        bare.columns_ = {
            name: replace(
                column,
                exemplars=None,
                detectors={part: one for part, one in column.detectors.items() if one.name != "knn"},
            )
            for name, column in self.columns_.items()
        }
        bare.together_ = self.together_
        return bare

    def save(self, folder: str | Path) -> None:
        """Write the recogniser as a folder of JSON and safetensors, whole or not at all.

        A recogniser that was saved there before is replaced. The `options` of the rungs, which fitting alone needs, are
        not kept.

        Raises:
            ChiasmError: the folder exists and is something else.
        """
        self._check_fitted()
        networks = list(
            {id(one.network): one.network for one in self.columns_.values() if one.network is not None}.values()
        )
        columns: list[dict[str, Any]] = []
        described: list[dict[str, Any]] = []
        tensors: dict[str, Any] = {}
        for number, column in enumerate(self.columns_.values()):
            fields, arrays = describe_column(column)
            fields["network"] = (
                None if column.network is None else [one is column.network for one in networks].index(True)
            )
            columns.append(fields)
            tensors |= {f"column.{number}.{name}": array for name, array in arrays.items()}
        for number, network in enumerate(networks):
            arrays, fields = network.as_arrays()
            described.append(fields)
            tensors |= {f"network.{number}.{name}": array for name, array in arrays.items()}
        weight = self.class_weight
        parameters = self.get_params() | {"options": None}
        if isinstance(weight, Mapping):
            parameters["class_weight"] = [
                [label.item() if isinstance(label, np.generic) else label, float(value)]
                for label, value in weight.items()
            ]
        together = [vars(report) for report in self.together_]
        fields = {"parameters": parameters, "columns": columns, "networks": described, "together": together}
        write_folder(Path(folder), fields, tensors)

    @classmethod
    def load(cls, folder: str | Path) -> Recognizer:
        """Read a recogniser that `save` wrote. Runs no code from the folder.

        Raises:
            ChiasmError: there is none, it is of another version, or it is damaged.
        """
        fields, tensors = read_folder(Path(folder))
        try:
            return cls._restored(fields, tensors)
        except DAMAGE as error:
            raise damaged(Path(folder), error) from error

    @classmethod
    def _restored(cls, fields: dict[str, Any], tensors: dict[str, Any]) -> Recognizer:
        def under(prefix: str) -> dict[str, Any]:
            return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}

        networks: list[Any] = []
        if fields["networks"]:
            from chiasm.recognition.networks import Network

            networks = [
                Network.from_arrays(under(f"network.{number}."), description)
                for number, description in enumerate(fields["networks"])
            ]
        parameters = dict(fields["parameters"])
        if isinstance(parameters["class_weight"], list):
            parameters["class_weight"] = dict(parameters["class_weight"])
        recognizer = cls(**parameters)
        recognizer.columns_ = {}
        for number, entry in enumerate(fields["columns"]):
            network = None if entry["network"] is None else networks[entry["network"]]
            recognizer.columns_[entry["column"]] = restore_column(entry, under(f"column.{number}."), network)
        if not recognizer.columns_:
            raise ValueError("there are no columns")
        recognizer.together_ = tuple(ColumnReport(**report) for report in fields["together"])
        for column in recognizer.columns_.values():
            _try_out(column)
        return recognizer

    # ------------------------------------------------------------------------------------------------------- fitting

    def _check_fitted(self) -> None:
        if not hasattr(self, "columns_"):
            from sklearn.exceptions import NotFittedError

            raise NotFittedError("this Recognizer is not fitted yet: call fit, or load a saved one")

    def _column(self, column: str | None) -> Fitted:
        if column is None and len(self.columns_) == 1:
            return next(iter(self.columns_.values()))
        if column not in self.columns_:
            raise ChiasmError(f"there is no column {column!r}: name one of {', '.join(self.columns_)}")
        return self.columns_[column]

    def _targets(
        self, y: Labels | Target | Sequence[Target] | Unchecked, arrays: ModalityArrays, names: Names | None
    ) -> list[Target]:
        """Check the columns to learn; classes with a name and without items are among the names."""
        if isinstance(y, Target):
            y = [y]
        if isinstance(y, list | tuple) and y and isinstance(y[0], Target):
            targets = list(y)
            _check_targets(targets, len(arrays))
        else:
            classes, codes = _class_codes(y, len(arrays))
            if len(classes) < 2:
                raise LabelError(f"all {len(codes)} labels are {classes[0]!s}: at least 2 classes are needed")
            targets = [Target("label", "classes", codes, np.ones(len(codes), dtype=bool), classes)]
        if not names or len(targets) > 1 or targets[0].kind == "number":
            return targets
        (target,) = targets
        every = _union(target.names, list(names), f"names of {target.kind}")
        place = np.searchsorted(every, target.names)
        if target.kind == "classes":
            return [replace(target, names=every, values=np.where(target.known, place[target.values], -1))]
        values = np.zeros((len(target), len(every)), dtype=bool)
        values[:, place] = target.values
        return [replace(target, names=every, values=values)]

    def _fit_column(
        self,
        target: Target,
        arrays: ModalityArrays,
        groups: Int[np.ndarray, " items"] | None,
        names: Names | None,
        source: SourceItems | None,
        unlabelled: ModalityArrays | None,
        domain: ModalityArrays | None,
        *,
        alone: bool,
    ) -> Fitted:
        """Fit one column whose items all have a value; one of several columns by linear heads."""
        rungs = self.options or RungOptions()
        if target.kind == "number":
            return fit_number_column(target, arrays, groups=groups, strengths=rungs.strengths)
        embedded = _embedded(names, target, arrays)
        if self.folds < 2:
            raise ChiasmError(f"at least 2 folds are needed; got {self.folds}")
        if target.kind == "labels":
            if self.threshold != "f1" and not (isinstance(self.threshold, int | float) and 0 < self.threshold < 1):
                raise ChiasmError(f"threshold must be 'f1' or between 0 and 1, such as 0.5; got {self.threshold!r}")
            return fit_label_column(
                target, arrays, groups=groups, names=embedded, folds=self.folds, threshold=self.threshold,
                strengths=rungs.strengths, seed=self.random_state,
            )  # fmt: skip
        options = Options(
            adapter=self.adapter if alone else "linear",
            fusion=self.fusion,
            alpha=self.alpha,
            semi=self.semi,
            unknown=self.unknown if alone else None,
            shares=self.shares,
            rungs=replace(rungs, class_weight=self._weights(target.names), seed=self.random_state),
        )
        return fit_classes(
            target,
            arrays,
            options,
            folds=self.folds,
            groups=groups,
            names=embedded,
            source=None if source is None else _known_source(source, target.names),
            unlabelled=unlabelled,
            domain=domain,
        )

    def _weights(self, classes: Shaped[np.ndarray, " classes"]) -> Mapping[int, float] | Literal["balanced"] | None:
        """Weights by class number."""
        if isinstance(self.class_weight, str) and self.class_weight != "balanced":
            raise ChiasmError(f"class_weight must be None, 'balanced' or a mapping; got {self.class_weight!r}")
        if self.class_weight is None or isinstance(self.class_weight, str):
            return self.class_weight
        return {k: float(self.class_weight.get(label, 1.0)) for k, label in enumerate(classes.tolist())}

    def _refuse_options(self, targets: list[Target], **arguments: object) -> None:
        """Refuse what is for one column of classes alone, or for one column."""
        of_classes = ("adapter", "fusion", "alpha", "semi", "class_weight", "shares")
        told = [name for name in of_classes if getattr(self, name) != _DEFAULTS[name]]
        told += [name for name in ("source", "unlabelled", "domain") if arguments[name] is not None]
        if arguments["names"] and (len(targets) > 1 or targets[0].kind == "number"):
            told.append("names")
        if told:
            what = "several columns" if len(targets) > 1 else f"a column of {targets[0].kind}"
            raise ChiasmError(f"{', '.join(told)}: only for one column of classes, not for {what}. Leave it out")


def _try_out(column: Fitted) -> None:
    """Have a column recognise an item with all modalities, and one with each: parts that do not fit together fail here."""
    names = column.features.modalities
    present = {name: np.arange(len(names) + 1) == place + 1 for place, name in enumerate(names)}
    for mask in present.values():
        mask[0] = True
    vectors, shared = (
        {name: np.ones((len(names) + 1, len(mean)), np.float32) for name, mean in part.items()}
        for part in (column.features.own, column.features.shared)
    )
    with np.errstate(all="ignore"):
        column.recognise(ModalityArrays(vectors, present, shared), names, level=0.9, false_alarm_rate=0.05)


_DEFAULTS: dict[str, Any] = {
    name: parameter.default
    for name, parameter in inspect.signature(Recognizer.__init__).parameters.items()
    if name != "self"
}


def _class_codes(y: Labels, items: int) -> tuple[Shaped[np.ndarray, " classes"], Int[np.ndarray, " items"]]:
    classes, codes = label_codes(y)
    if len(codes) != items:
        raise LabelError(f"there are {items} items but {len(codes)} labels: give one label an item")
    if classes.dtype.kind not in KINDS:
        raise LabelError(f"labels must be text, numbers or booleans; got {classes.dtype}")
    return classes, codes


def _check_targets(targets: Sequence[Target | Unchecked], items: int) -> None:
    wrong = [type(target).__name__ for target in targets if not isinstance(target, Target)]
    if wrong:
        raise LabelError(f"give the columns to predict as parse_target returns them; got {wrong[0]}")
    columns = [target.column for target in targets]
    repeated = sorted({column for column in columns if columns.count(column) > 1})
    if repeated:
        raise LabelError(f"column {repeated[0]!r} is given twice")
    for target in targets:
        if len(target) != items:
            raise LabelError(f"column {target.column!r}: there are {items} items but {len(target)} values")
        if not target.teaches:
            raise LabelError(
                f"column {target.column!r}: all known values are the same, or none is known: nothing to learn"
            )


def _embedded(
    names: Names | None, target: Target, arrays: ModalityArrays
) -> tuple[Float[np.ndarray, "named dim"], Int[np.ndarray, " named"]] | None:
    """Embedded names as a matrix, and the class or label of each by number."""
    if not names:
        return None
    if not arrays.shared:
        raise ChiasmError(f"names of {target.kind} need a shared space: give the items' vectors in it as `shared`")
    width = next(iter(arrays.shared.values())).shape[1]
    rows = [np.asarray(vector, dtype=np.float32) for vector in names.values()]
    bad = [label for label, row in zip(names, rows, strict=True) if row.shape != (width,) or not np.isfinite(row).all()]
    if bad:
        raise ChiasmError(
            f"names of {target.kind} must be finite vectors of width {width}, as the shared space has; that of {bad[0]!s} "
            "is not"
        )
    return np.stack(rows), np.searchsorted(target.names, np.array(list(names)))


def _union(own: Shaped[np.ndarray, " own"], more: list[Any], what: str) -> Shaped[np.ndarray, " all"]:
    """Names and more of them, all of one kind."""
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


def _known_source(
    source: SourceItems, classes: Shaped[np.ndarray, " classes"]
) -> tuple[ModalityArrays, Int[np.ndarray, " known"]]:
    """The items of a source whose class is among those of the target."""
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
