"""Probabilities that can be believed: calibration of a classifier's probabilities.

This module knows how to learn, from predictions for items that a model did not see, what the model's probabilities are
worth. Making such predictions is left to whoever fits the model; sets of classes, to `chiasm.recognition.conformal`.
Applying what was learned needs numpy alone: scipy and scikit-learn are imported by the functions that fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Float, Float64, Int, Shaped

from chiasm.errors import ChiasmError, LabelError
from chiasm.splits import Labels, deal, group_codes
from chiasm.vectors import Unchecked

CalibrationMethod: TypeAlias = Literal["none", "temperature", "isotonic"]

_COLDEST, _HOTTEST = 0.05, 20.0
_LEAST_LOG = -1e6  # relative to the best class of an item; below it only rounding and overflow differ
_ROW_SUM_TOLERANCE = 1e-3  # float32 softmax over a thousand classes is off by 1e-4


def expected_calibration_error(
    probabilities: Float[np.ndarray, "items classes"] | Unchecked,
    codes: Int[np.ndarray, " items"] | Unchecked,
    *,
    bins: int = 15,
) -> float:
    """How far the probability of the predicted class is from the share of right predictions.

    The mean over bins of equal width of |mean probability - share right|, weighted by the items of a bin (Naeini et al.
    2015; Guo et al. 2017, eq. 3). It is biased upwards: with 500 items of 5
    classes drawn from the very probabilities that are judged, it came to 0.05 on average.

    Args:
        probabilities: one row an item, each summing to 1.
        codes: the true class of each item, by number.
        bins: how many.

    Raises:
        ChiasmError: the probabilities are none, or `bins` is below 1.
        LabelError: there are no items, or codes do not fit them.
    """
    checked = checked_probabilities(probabilities)
    true = checked_codes(codes, *checked.shape)
    if bins < 1:
        raise ChiasmError(f"bins must be at least 1; got {bins}")
    if not len(true):
        raise LabelError("there are no items to measure calibration on")
    return _ece(checked, true, bins)


def checked_codes(
    codes: Int[np.ndarray, " items"] | Unchecked, items: int, classes: int, *, what: str = "codes"
) -> Int[np.ndarray, " items"]:
    """Class numbers as an array, after making sure that there is one an item and that each is a class.

    Args:
        codes: class numbers.
        items: how many there must be.
        classes: how many classes there are.
        what: they are called so in messages.

    Raises:
        LabelError: they do not fit.
    """
    checked = np.asarray(codes)
    if checked.shape != (items,) or checked.dtype.kind not in "iu":
        raise LabelError(f"{what} must be {items} whole numbers, one an item; got {checked.dtype} {checked.shape}")
    outside = np.flatnonzero((checked < 0) | (checked >= classes))
    if len(outside):
        raise LabelError(
            f"{what} must be class numbers from 0 to {classes - 1}; {len(outside)} are not, first {checked[outside[0]]} "
            f"of item {outside[0]}"
        )
    return checked.astype(np.int64, copy=False)


@dataclass(frozen=True)
class _Temperature:
    """Log-probabilities divided by one number; 1 leaves them as they are."""

    value: float

    def __call__(self, logs: Float64[np.ndarray, "items classes"]) -> Float64[np.ndarray, "items classes"]:
        return _softmax(logs / self.value)


@dataclass(frozen=True, eq=False)
class _Isotonic:
    """A rising curve for each class, from its probability to the share of items that are of it."""

    curves: tuple[tuple[Float64[np.ndarray, " knots"], Float64[np.ndarray, " knots"]], ...]
    items: int

    def __call__(self, logs: Float64[np.ndarray, "items classes"]) -> Float64[np.ndarray, "items classes"]:
        probabilities = _softmax(logs)
        shares = np.stack(
            [np.interp(probabilities[:, k], at, share) for k, (at, share) in enumerate(self.curves)], axis=1
        )
        # One imaginary item divided among all classes: a share of 0 of n items does not make a class impossible.
        shares = (self.items * shares + 1 / len(self.curves)) / (self.items + 1)
        shares[np.isneginf(logs)] = 0
        normalised: Float64[np.ndarray, "items classes"] = shares / shares.sum(axis=1, keepdims=True)
        return normalised


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a model's log-probabilities are worth, learned by `fit_calibration`.

    What it reports was measured by cross-fitting: on each inner fold of the held-out items with the map that was fitted
    on the others.
    """

    method: CalibrationMethod
    classes: int
    items: int
    """Held-out items that it was learned from."""
    impossible: int
    """Those whose true class had probability 0: no calibration mends that. They count in the errors below only."""
    ece_before: float
    ece_after: float
    """Expected calibration errors, 15 bins, see `expected_calibration_error`."""
    log_losses: dict[CalibrationMethod, float]
    """Mean log loss of every method that was tried, items with an impossible class left out."""
    mapping: _Temperature | _Isotonic

    @property
    def temperature(self) -> float | None:
        """What log-probabilities are divided by; None where the method is isotonic."""
        return self.mapping.value if isinstance(self.mapping, _Temperature) else None

    def apply(
        self, log_probabilities: Float[np.ndarray, "items classes"] | Unchecked
    ) -> Float64[np.ndarray, "items classes"]:
        """Calibrated probabilities: rows sum to 1, and 0 stands for minus infinity only.

        Raises:
            ChiasmError: not a matrix of so many classes, NaN or plus infinity, or an item without any possible class.
        """
        return self.mapping(_checked_logs(log_probabilities, self.classes))

    def as_fields(self) -> dict[str, Any]:
        """What JSON can hold of it; with `as_arrays` all that `from_arrays` needs."""
        return {
            "method": self.method,
            "classes": self.classes,
            "items": self.items,
            "impossible": self.impossible,
            "ece_before": self.ece_before,
            "ece_after": self.ece_after,
            "log_losses": dict(self.log_losses),
            "temperature": self.temperature,
        }

    def as_arrays(self) -> dict[str, Shaped[np.ndarray, "..."]]:
        """The curves of isotonic calibration, one after the other with the number of knots of each; otherwise nothing."""
        if isinstance(self.mapping, _Temperature):
            return {}
        return {
            "at": np.concatenate([at for at, _ in self.mapping.curves]),
            "share": np.concatenate([share for _, share in self.mapping.curves]),
            "knots": np.array([len(at) for at, _ in self.mapping.curves], dtype=np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Shaped[np.ndarray, "..."]], fields: Mapping[str, Any]) -> Calibration:
        """What `as_arrays` and `as_fields` gave.

        Raises:
            ChiasmError: they do not make a calibration.
        """
        try:
            method, classes, items = fields["method"], int(fields["classes"]), int(fields["items"])
            if method not in get_args(CalibrationMethod) or classes < 2 or items < 1:
                raise ValueError(f"method {method!r} of {classes} classes and {items} items")
            mapping: _Temperature | _Isotonic
            if method == "isotonic":
                mapping = _Isotonic(_curves_from(arrays, classes), items)
            else:
                mapping = _Temperature(float(fields["temperature"]))
                if not _COLDEST <= mapping.value <= _HOTTEST:
                    raise ValueError(f"temperature {mapping.value}")
            return cls(
                method,
                classes,
                items,
                int(fields["impossible"]),
                float(fields["ece_before"]),
                float(fields["ece_after"]),
                {tried: float(loss) for tried, loss in fields["log_losses"].items()},
                mapping,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise damaged("calibration", error) from error


def fit_calibration(
    log_probabilities: Float[np.ndarray, "items classes"] | Unchecked,
    codes: Int[np.ndarray, " items"] | Unchecked,
    *,
    method: CalibrationMethod | Literal["auto"] = "auto",
    folds: int = 5,
    groups: Labels | None = None,
    seed: int = 0,
) -> Calibration:
    """Learn from held-out predictions what a model's probabilities are worth.

    - `temperature` divides log-probabilities by one number (Guo et al. 2017): the one with the least log loss. The sum
      of losses has half the square of the number's logarithm added, a prior that two items outweigh and that keeps the
      number finite where all held-out items are recognised. It lies within 0.05 and 20.
    - `isotonic` learns a rising curve for each class against the rest and normalises (Zadrozny & Elkan 2002). One
      imaginary item divided among all classes keeps possible classes above 0. A class that no held-out item is of keeps
      its probabilities.
    - `auto` takes temperature if its log loss, by cross-fitting over the held-out items, is below that of no
      calibration, and isotonic if it is below the better of these by more than one standard error of the difference.

    Args:
        log_probabilities: of items that the model did not see, such as those of the folds of a cross-validation. Minus
            infinity is a class that the model does not know. Rows need not be normalised.
        codes: the true class of each item, by number.
        method: see above.
        folds: of the cross-fitting, at most as many as there are items or groups.
        groups: items of one group are never on both sides of an inner fold.
        seed: of the folds.

    Raises:
        ChiasmError: the log-probabilities are not usable (see `Calibration.apply`), or there is no such method.
        LabelError: there are fewer than two held-out items, groups or classes, codes do not fit, or the true class of
            no item is possible.
    """
    tried: tuple[CalibrationMethod, ...]
    if method == "auto":
        tried = ("none", "temperature", "isotonic")
    elif method in get_args(CalibrationMethod):
        tried = ("none",) if method == "none" else ("none", method)
    else:
        raise ChiasmError(f"there is no calibration {method!r}: take auto, {', '.join(get_args(CalibrationMethod))}")
    logs = _checked_logs(log_probabilities)
    items, classes = logs.shape
    true = checked_codes(codes, items, classes)
    if classes < 2:
        raise LabelError("log-probabilities of one class only cannot be calibrated: at least 2 classes are needed")
    group = None if groups is None else group_codes(groups, items)
    parts = items if group is None else len(np.unique(group))
    if parts < 2:
        raise LabelError(
            f"got {parts} held-out {'items' if group is None else 'groups'}: at least 2 are needed to calibrate, "
            "from items that the model did not learn from"
        )
    possible = np.isfinite(logs[np.arange(items), true])
    if not possible.any():
        raise LabelError(f"the true class of each of the {items} held-out items has probability 0: are codes in order?")

    fold = deal(true, min(folds, parts), seed=seed, groups=group)
    held_out = {name: np.empty_like(logs) for name in tried}
    for number in range(fold.max() + 1):
        test = fold == number
        for name in tried:
            held_out[name][test] = _FITS[name](logs[~test], true[~test])(logs[test])
    losses = {name: -np.log(probabilities[possible, true[possible]]) for name, probabilities in held_out.items()}
    chosen = _best(losses) if method == "auto" else method
    return Calibration(
        method=chosen,
        classes=classes,
        items=items,
        impossible=int(items - possible.sum()),
        ece_before=_ece(held_out["none"], true),
        ece_after=_ece(held_out[chosen], true),
        log_losses={name: float(loss.mean()) for name, loss in losses.items()},
        mapping=_FITS[chosen](logs, true),
    )


def _fit_temperature(logs: Float64[np.ndarray, "items classes"], codes: Int[np.ndarray, " items"]) -> _Temperature:
    from scipy.optimize import minimize_scalar

    own = logs[np.arange(len(logs)), codes]
    possible = np.isfinite(own)
    logs, own = logs[possible], own[possible]

    def loss(log_temperature: float) -> float:
        scale = math.exp(-log_temperature)
        total = np.log(np.exp(logs * scale).sum(axis=1))  # the best class of an item is at 0: no overflow
        return float((total - own * scale).sum() + log_temperature**2 / 2)

    found = minimize_scalar(loss, bounds=(math.log(_COLDEST), math.log(_HOTTEST)), method="bounded")
    return _Temperature(min(max(math.exp(found.x), _COLDEST), _HOTTEST))


def _fit_isotonic(logs: Float64[np.ndarray, "items classes"], codes: Int[np.ndarray, " items"]) -> _Isotonic:
    from sklearn.isotonic import IsotonicRegression

    probabilities = _softmax(logs)
    curves = []
    for k in range(logs.shape[1]):
        possible = np.isfinite(logs[:, k])
        own = codes[possible] == k
        if own.any():
            curve = IsotonicRegression(y_min=0, y_max=1).fit(probabilities[possible, k], own.astype(np.float64))
            curves.append((curve.X_thresholds_, curve.y_thresholds_))
        else:
            curves.append((np.array([0.0, 1.0]), np.array([0.0, 1.0])))
    return _Isotonic(tuple(curves), len(logs))


def _fit_nothing(
    logs: Float64[np.ndarray, "items classes"],  # noqa: ARG001  as the other fits have them
    codes: Int[np.ndarray, " items"],  # noqa: ARG001
) -> _Temperature:
    return _Temperature(1.0)


_FITS: dict[
    CalibrationMethod,
    Callable[[Float64[np.ndarray, "items classes"], Int[np.ndarray, " items"]], _Temperature | _Isotonic],
] = {"none": _fit_nothing, "temperature": _fit_temperature, "isotonic": _fit_isotonic}


def _best(losses: Mapping[CalibrationMethod, Float64[np.ndarray, " items"]]) -> CalibrationMethod:
    """See `fit_calibration` on auto."""
    best: CalibrationMethod = "temperature" if losses["temperature"].mean() < losses["none"].mean() else "none"
    lead = losses[best] - losses["isotonic"]
    return "isotonic" if lead.mean() > lead.std() / math.sqrt(len(lead)) else best


def _ece(
    probabilities: Float64[np.ndarray, "items classes"], codes: Int[np.ndarray, " items"], bins: int = 15
) -> float:
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == codes
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    return float(np.abs(np.bincount(place, confidence - right)).sum() / len(codes))


def _softmax(logs: Float64[np.ndarray, "items classes"]) -> Float64[np.ndarray, "items classes"]:
    """Probabilities of logarithms whose largest in each row is 0; above 0 unless the logarithm is minus infinity."""
    exponentials = np.where(np.isneginf(logs), 0, np.maximum(np.exp(logs), np.finfo(np.float64).tiny))
    probabilities: Float64[np.ndarray, "items classes"] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


def _curves_from(
    arrays: Mapping[str, Shaped[np.ndarray, "..."]], classes: int
) -> tuple[tuple[Float64[np.ndarray, " knots"], Float64[np.ndarray, " knots"]], ...]:
    at, share, knots = arrays["at"], arrays["share"], arrays["knots"]
    if knots.shape != (classes,) or knots.dtype.kind != "i" or (knots < 1).any():
        raise ValueError(f"numbers of knots {knots.dtype} {knots.shape} for {classes} classes")
    for values in (at, share):
        if values.shape != (knots.sum(),) or values.dtype.kind != "f" or not ((values >= 0) & (values <= 1)).all():
            raise ValueError(f"knots should be {knots.sum()} numbers from 0 to 1; got {values.dtype} {values.shape}")
    ends = np.cumsum(knots)[:-1]
    curves = tuple(zip(np.split(at, ends), np.split(share, ends), strict=True))
    if any((np.diff(x) < 0).any() or (np.diff(y) < 0).any() for x, y in curves):
        raise ValueError("knots should rise")
    return curves


def damaged(what: str, error: Exception) -> ChiasmError:
    """The error for arrays and fields that are not what was saved."""
    return ChiasmError(f"these are not saved {what} ({type(error).__name__}: {error}): fit and save again")


def _checked_logs(
    log_probabilities: Float[np.ndarray, "items classes"] | Unchecked, classes: int | None = None
) -> Float64[np.ndarray, "items classes"]:
    """As float64, the largest of each row at 0, what is not minus infinity at -1e6 at least."""
    logs = _checked_matrix(log_probabilities, "log-probabilities", classes)
    unusable = np.flatnonzero((np.isnan(logs) | np.isposinf(logs)).any(axis=1))
    if len(unusable):
        raise ChiasmError(
            f"{len(unusable)} of {len(logs)} rows of log-probabilities hold NaN or plus infinity, first row {unusable[0]}"
        )
    best = logs.max(axis=1, keepdims=True, initial=-np.inf)
    nowhere = np.flatnonzero(np.isneginf(best[:, 0]))
    if len(nowhere):
        raise ChiasmError(
            f"{len(nowhere)} of {len(logs)} rows of log-probabilities are minus infinity for every class, first row "
            f"{nowhere[0]}: an item needs a possible class"
        )
    with np.errstate(over="ignore"):
        relative: Float64[np.ndarray, "items classes"] = np.where(
            np.isneginf(logs), -np.inf, np.maximum(logs - best, _LEAST_LOG)
        )
    return relative


def checked_probabilities(
    probabilities: Float[np.ndarray, "items classes"] | Unchecked, classes: int | None = None
) -> Float64[np.ndarray, "items classes"]:
    """Probabilities as float64, after making sure that they are some.

    Args:
        probabilities: one row an item.
        classes: how many there must be; None: any number.

    Raises:
        ChiasmError: not a matrix of floats of so many classes, negative, NaN, or rows whose sum is not 1.
    """
    checked = _checked_matrix(probabilities, "probabilities", classes)
    with np.errstate(invalid="ignore"):
        usable = (checked >= 0).all(axis=1) & (np.abs(checked.sum(axis=1) - 1) <= _ROW_SUM_TOLERANCE)
    bad = np.flatnonzero(~usable)
    if len(bad):
        raise ChiasmError(
            f"{len(bad)} of {len(checked)} rows are no probabilities (not below 0, with sum 1), first row {bad[0]}: "
            "give probabilities, not logits or logarithms, and leave items with NaN out"
        )
    return checked


def _checked_matrix(
    values: Shaped[np.ndarray, "..."] | Unchecked, what: str, classes: int | None
) -> Float64[np.ndarray, "items classes"]:
    checked = np.asarray(values)
    if checked.ndim != 2 or checked.dtype.kind != "f" or (classes is not None and checked.shape[1] != classes):
        columns = "one column a class" if classes is None else f"{classes} columns, one a class"
        raise ChiasmError(f"{what} must be a matrix of floats with {columns}; got {checked.dtype} {checked.shape}")
    return checked.astype(np.float64)
