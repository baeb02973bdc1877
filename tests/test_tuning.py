"""A search is judged on planted answers, is the same again for a seed, and loses nothing when it is interrupted."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from filelock import FileLock
from optuna.storages.journal import JournalFileBackend
from sklearn.metrics import f1_score

from chiasm.errors import ChiasmError, LabelError, MissingExtraError
from chiasm.recognition import ModalityArrays, Recognizer, RungOptions, SourceItems, tuning
from chiasm.recognition.fusion import Fusion
from chiasm.recognition.heads import RUNGS
from chiasm.recognition.ladder import deal_folds
from chiasm.recognition.tuning import TrialReport, Tuning, tune

CLASSES = np.array(["bird", "fish", "frog"])


def planted(items: int = 60, *, seed: int = 0, two: bool = False) -> tuple[ModalityArrays, np.ndarray]:
    """Items whose class is the largest of their first three numbers, some of them a little off."""
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.arange(items) % 3)
    X = np.eye(3, 8)[codes] + 0.35 * rng.normal(size=(items, 8))
    vectors: dict[Any, np.ndarray] = {"image": X.astype(np.float32)}
    if two:
        vectors["text"] = (np.eye(3, 5)[codes] + rng.normal(size=(items, 5))).astype(np.float32)
    return ModalityArrays(vectors), CLASSES[codes]


class Fake:
    """In the place of the recogniser: how sure it is of the largest number depends on its arguments alone."""

    quality: Callable[[dict[str, Any]], float]
    on_fit: Callable[[int], None]
    fits: list[tuple[dict[str, Any], np.ndarray]]

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments

    def fit(self, X: Any, y: Any, groups: Any, *, names: Any, source: Any) -> Fake:
        type(self).fits.append((self.arguments, X.vectors["image"]))
        type(self).on_fit(len(type(self).fits))
        self.classes_ = np.unique(y)
        self.sure = type(self).quality(self.arguments)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        best = X.vectors["image"][:, : len(self.classes_)].argmax(axis=1)
        p: np.ndarray = self.sure * np.eye(len(self.classes_))[best] + (1 - self.sure) / len(self.classes_)
        return p


def strength_of(arguments: dict[str, Any]) -> float | None:
    options = arguments.get("options")
    return None if options is None or options.strengths is None else float(options.strengths[0])


def likes_strengths_near_one(arguments: dict[str, Any]) -> float:
    strength = strength_of(arguments)
    return 0.5 if strength is None else float(0.85 * np.exp(-(np.log10(strength) ** 2)))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    class Fresh(Fake):
        fits: list[tuple[dict[str, Any], np.ndarray]] = []  # noqa: RUF012  one list a test
        quality = staticmethod(likes_strengths_near_one)
        on_fit = staticmethod(lambda _: None)

    monkeypatch.setattr(tuning, "Recognizer", Fresh)
    return Fresh


def search(trials: int = 12, **given: Any) -> Tuning:
    X, y = planted()
    return tune(X, y, **{"trials": trials, "adapters": ("linear", "prototypes"), "folds": 3, **given})


def without_times(found: Tuning) -> dict[str, Any]:
    told = found.as_dict()
    for trial in told["trials"]:
        del trial["seconds"]
    return told


# --------------------------------------------------------------------------------------------------------------- scores


@pytest.mark.parametrize("objective", ["brier", "f1_macro"])
def test_a_score_is_that_of_held_out_items_with_all_classes_alike(objective: Any) -> None:
    X, y = planted(50)
    codes = np.searchsorted(CLASSES, y)
    groups = np.arange(50) // 2
    found = tune(X, y, trials=1, groups=groups, adapters=("prototypes",), folds=3, objective=objective, seed=4)
    fold_of = deal_folds(codes, 3, seed=4, groups=groups)
    p = np.empty((50, 3))
    for fold in range(3):
        train, test = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        model = Recognizer(adapter="prototypes", unknown=None, random_state=4)
        p[test] = model.fit(X.take(train), y[train], groups[train]).predict_proba(X.take(test))

    def score(rows: np.ndarray) -> float:
        if objective == "f1_macro":
            return float(f1_score(codes[rows], p[rows].argmax(axis=1), average="macro"))
        errors = np.square(p[rows] - np.eye(3)[codes[rows]]).sum(axis=1)
        return float(np.mean([errors[codes[rows] == k].mean() for k in range(3)]))

    assert found.on_own_folds.score == pytest.approx(score(np.arange(50)))
    assert found.trials[0].score == found.on_own_folds.default == found.on_own_folds.score
    left = np.array([score(np.flatnonzero(fold_of != fold)) for fold in range(3)])
    jackknife = np.sqrt(2 / 3 * np.square(left - left.mean()).sum())
    assert found.on_own_folds.standard_error == pytest.approx(jackknife)
    assert (found.on_own_folds.gain, found.on_own_folds.gain_error, found.on_own_folds.wins) == (0, 0, False)
    assert found.best == {"adapter": "prototypes", "fusion": "auto", "class_weight": None, "random_state": 4}


def test_a_class_that_is_known_by_its_name_only_can_be_taken_for_another() -> None:
    X, y = planted(40)
    shared = ModalityArrays(shared={"image": X.vectors["image"]})
    named = np.flatnonzero(y != "frog")
    names = dict(zip(CLASSES.tolist(), np.eye(3, 8, dtype=np.float32), strict=True))
    found = tune(shared.take(named), y[named], trials=1, names=names, adapters=("zero-shot",), folds=2)
    assert found.trials[0].state == "complete"
    assert 0 < found.on_own_folds.score < 0.5


def test_the_planted_strength_is_found(fake: type[Fake]) -> None:
    found = search(30)
    strength = found.parameters["strength"]
    assert isinstance(strength, float) and 0.2 < strength < 5
    assert strength_of(dict(found.best)) == strength
    assert found.on_own_folds.wins and found.on_own_folds.gain > 0.05
    assert found.on_own_folds.gain == pytest.approx(found.on_own_folds.default - found.on_own_folds.score)
    assert found.best == {
        "adapter": "linear",
        "fusion": "auto",
        "class_weight": found.parameters["class_weight"],
        "random_state": 0,
        "options": RungOptions(strengths=(strength,)),
    }


def test_a_search_starts_from_the_defaults_and_never_ends_worse(fake: type[Fake]) -> None:
    fake.quality = staticmethod(lambda arguments: 0.8 if arguments["adapter"] == "auto" else 0.3)
    X, y = planted()
    found = tune(X, y, trials=6, adapters=("auto", "linear", "prototypes"), folds=3)
    assert found.trials[0].parameters == {"adapter": "auto", "fusion": "auto", "class_weight": None}
    assert dict(found.trials[1].parameters)["adapter"] == "linear"
    assert found.number == 0
    assert found.on_own_folds.gain == 0
    assert "the default is as good a choice" in found.warning


def test_the_choice_is_measured_on_the_folds_that_did_not_choose(fake: type[Fake]) -> None:
    """Strengths that are good on one fold by chance: the best of them flatters, the nested score does not."""
    X, y = planted()
    codes = np.searchsorted(CLASSES, y)
    fold_of = deal_folds(codes, 3, seed=0, groups=None)
    rows = {row.tobytes(): number for number, row in enumerate(X.vectors["image"])}

    def sure(arguments: dict[str, Any], fold: int) -> float:
        number = strength_of(arguments) or 0.0
        return float(np.random.default_rng([int(number * 1e6), fold]).uniform(0.1, 0.9))

    class ByChance(fake):  # type: ignore[valid-type,misc]
        def predict_proba(self, X: Any) -> np.ndarray:
            fold = fold_of[rows[X.vectors["image"][0].tobytes()]]
            self.sure = sure(self.arguments, int(fold))
            p: np.ndarray = super().predict_proba(X)
            return p

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "Recognizer", ByChance)
        found = search(25, adapters=("linear",))
    complete = [trial for trial in found.trials if trial.state == "complete"]

    def errors(trial: TrialReport) -> np.ndarray:
        strength = trial.parameters.get("strength")
        options = {} if strength is None else {"options": RungOptions(strengths=(float(strength),))}
        q = np.array([sure(options, int(fold)) for fold in fold_of])
        best = X.vectors["image"][:, :3].argmax(axis=1)
        p = q[:, None] * np.eye(3)[best] + (1 - q[:, None]) / 3
        squared: np.ndarray = np.square(p - np.eye(3)[codes]).sum(axis=1)
        return squared

    def balanced(squared: np.ndarray, rows: np.ndarray) -> float:
        return float(np.mean([squared[rows & (codes == k)].mean() for k in range(3)]))

    every = [errors(trial) for trial in complete]
    chosen = np.empty(len(y))
    for fold in range(3):
        best = min(every, key=lambda squared, fold=fold: balanced(squared, fold_of != fold))  # type: ignore[misc]
        chosen[fold_of == fold] = best[fold_of == fold]
    assert found.nested.score == pytest.approx(balanced(chosen, np.ones(len(y), dtype=bool)))
    assert found.nested.score > found.on_own_folds.score
    assert found.nested.default == found.on_own_folds.default
    assert f"it is {found.nested.score:.3f}" in found.warning and "flatters" in found.warning


def test_outer_items_are_kept_out_of_the_search(fake: type[Fake]) -> None:
    X, y = planted()
    outer = np.arange(0, 60, 3)
    found = tune(X, y, trials=8, adapters=("linear",), folds=3, outer=outer)
    seen = {row.tobytes() for _, rows in fake.fits for row in rows}
    assert not seen & {X.vectors["image"][row].tobytes() for row in outer}
    assert found.outer is not None
    last_two = [arguments for arguments, rows in fake.fits if len(rows) == 40]
    assert len(last_two) == 2, "the best and the default are fitted on all other items"
    codes = np.searchsorted(CLASSES, y)[outer]
    best = X.vectors["image"][outer][:, :3].argmax(axis=1)
    for arguments, score in zip(last_two, (found.outer.score, found.outer.default), strict=True):
        q = likes_strengths_near_one(arguments)
        squared = np.square(q * np.eye(3)[best] + (1 - q) / 3 - np.eye(3)[codes]).sum(axis=1)
        assert score == pytest.approx(np.mean([squared[codes == k].mean() for k in range(3)]))
    assert f"on items kept out of the search, {found.outer.score:.3f}" in found.warning
    json.dumps(found.as_dict(), allow_nan=False)


# ----------------------------------------------------------------------------------------------------------- the space

WIDE = tuning._Space(("auto", *RUNGS), ("auto", "concat", "mean", "gated", "attention", "low_rank"), True)


def test_a_trial_has_the_parameters_that_its_adapter_and_fusion_use() -> None:
    grid = WIDE.grid(seed=0)
    by_kind: dict[Any, set[str]] = {}
    for chosen in grid:
        kind = chosen["fusion"] if "adapter" not in chosen else chosen["adapter"]
        by_kind.setdefault(kind, set()).update(chosen)
    common = {"fusion", "alpha_from", "alpha"}
    training = {"learning_rate", "weight_decay", "l1", "mixup"}
    fused = common | training | {"class_weight", "width", "fusion_dropout", "modality_dropout"}
    assert by_kind == {
        "auto": common | {"adapter", "class_weight"},
        "zero-shot": common | {"adapter"},
        "prototypes": common | {"adapter"},
        "tip-adapter": common | {"adapter"},
        "linear": common | {"adapter", "class_weight", "strength_from", "strength"},
        "residual": common | {"adapter", "class_weight", "bottleneck", "ratio"} | training,
        "mlp": common | {"adapter", "class_weight", "hidden", "mlp_dropout"} | training,
        "gated": fused,
        "attention": fused,
        "low_rank": fused | {"rank"},
    }
    assert not any("alpha_from" in chosen for chosen in tuning._Space(("linear",), ("auto",), False).grid(seed=0))


def test_every_parameter_reaches_the_recogniser_and_no_two_trials_are_the_same() -> None:
    seen = set()
    for chosen in WIDE.grid(seed=1):
        arguments = tuning._arguments(chosen, seed=3)
        recognizer = Recognizer(**arguments)
        assert recognizer.random_state == 3
        if "network" in arguments:
            Fusion(kind=arguments["fusion"], **arguments["network"])
        seen.add(repr(sorted(arguments.items())))
    # "path" beside no strength, "auto" beside no alpha: the ways to say the same are not in the space.
    assert len(seen) == len(WIDE.grid(seed=1))


def test_a_default_is_what_the_recogniser_does_when_nothing_is_said() -> None:
    default = tuning._arguments(WIDE.default(), seed=0)
    assert Recognizer(**default).get_params() == Recognizer().get_params()
    for adapter in ("linear", "mlp", "residual"):
        options = tuning._arguments(WIDE.default(adapter=adapter), seed=0).get("options", RungOptions())
        assert {name: value for name, value in vars(options).items() if name != "training"} == {
            name: value for name, value in vars(RungOptions()).items() if name != "training"
        }
    for fusion in ("gated", "attention", "low_rank"):
        network = tuning._arguments(WIDE.default(fusion=fusion), seed=0)["network"]
        assert Fusion(**network) == Fusion()


def test_training_defaults_are_those_of_training() -> None:
    from chiasm.training import Training

    assert tuning._arguments(WIDE.default(adapter="mlp"), seed=0)["options"].training == Training()
    balanced = {**WIDE.default(fusion="gated"), "class_weight": "balanced"}
    assert tuning._arguments(balanced, seed=0)["options"].training.class_balance == "weights"


def test_a_grid_goes_from_the_default_outwards_and_ends(fake: type[Fake]) -> None:
    found = search(100, sampler="grid")
    space = tuning._Space(("linear", "prototypes"), ("auto",), False)
    grid = space.grid(seed=0)
    assert len(grid) == 2 * (1 + 3) + 1  # class weights x (path, three strengths), prototypes
    assert len({json.dumps(one, sort_keys=True) for one in grid}) == len(grid)
    assert len(found.trials) == len(grid), "every combination once, and no more"
    plain = space.default()
    changes = [
        sum(value != tuning._RANGES[name].default for name, value in one.items() if name in tuning._RANGES)
        + (one["adapter"] != plain["adapter"])
        for one in grid
    ]
    assert changes == sorted(changes)
    assert [dict(trial.parameters) for trial in search(4, sampler="grid").trials] == [
        dict(trial.parameters) for trial in found.trials[:4]
    ]


def test_what_the_items_do_not_allow_is_not_searched(fake: type[Fake]) -> None:
    X, y = planted(24, two=True)
    data = tuning._checked_data(X, y, None, None, None)
    few = tuning._space_for(data, data.deal(3, seed=0), None, None)
    assert few.adapters == ("auto", "prototypes", "tip-adapter", "linear"), "no names, and 16 rows are too few"
    assert few.fusions == ("auto", "single", "mean", "stack", "concat", "gated", "attention", "low_rank")
    X, y = planted(60)
    shared = ModalityArrays(shared={"image": X.vectors["image"]})
    names = dict(zip(CLASSES.tolist(), np.eye(3, 8, dtype=np.float32), strict=True))
    data = tuning._checked_data(shared, y, None, names, SourceItems(shared, y))
    many = tuning._space_for(data, data.deal(3, seed=0), None, None)
    assert many == tuning._Space(("auto", *RUNGS), ("auto",), True)


def test_the_weight_of_a_source_is_searched_where_there_is_one(fake: type[Fake]) -> None:
    X, y = planted()
    fake.quality = staticmethod(lambda arguments: 0.9 if arguments["alpha"] == "auto" else arguments["alpha"] / 2)
    found = tune(X, y, trials=10, source=SourceItems(*planted(seed=1)), adapters=("prototypes",), folds=3)
    assert found.best["alpha"] == "auto"
    alphas = [trial.parameters["alpha"] for trial in found.trials if "alpha" in trial.parameters]
    assert len(set(alphas)) > 3
    fake.quality = staticmethod(lambda arguments: 0.5)
    assert "alpha" not in search(2).best


# -------------------------------------------------------------------------------------------- pruning, failing, stopping


def test_trials_behind_the_median_are_pruned_after_a_fold(fake: type[Fake]) -> None:
    found = search(20, adapters=("linear",))
    pruned = [trial for trial in found.trials if trial.state == "pruned"]
    assert pruned
    for trial in pruned:
        assert trial.folds < 3
        assert trial.reason == f"behind the median of the other trials after {trial.folds} of 3 folds"
        assert trial.score is not None
    assert len(fake.fits) == sum(trial.folds for trial in found.trials if not repeated(found, trial))


def repeated(found: Tuning, trial: TrialReport) -> bool:
    return any(trial.parameters == earlier.parameters for earlier in found.trials[: trial.number])


def test_a_network_no_better_than_guessing_is_given_up(fake: type[Fake], monkeypatch: pytest.MonkeyPatch) -> None:
    epochs: list[int] = []

    class Learns(fake):  # type: ignore[valid-type,misc]
        def fit(self, X: Any, y: Any, groups: Any, **given: Any) -> Any:
            slow = self.arguments["options"].training.learning_rate < 3e-3
            for epoch in range(30):
                epochs.append(epoch)
                self.arguments["options"].on_epoch(epoch, np.log(3) + 0.01 if slow else 0.5)
            return super().fit(X, y, groups, **given)

    monkeypatch.setattr(tuning, "Recognizer", Learns)
    fake.quality = staticmethod(lambda _: 0.5)
    found = search(12, adapters=("mlp",), sampler="random")
    slow = [trial for trial in found.trials if float(trial.parameters["learning_rate"] or 0) < 3e-3]
    assert len(slow) > 2
    for trial in slow:
        assert (trial.state, trial.folds, trial.score) == ("pruned", 0, None)
        assert trial.reason == "its network is no better than guessing after 25 epochs"
    others = len(found.trials) - len(slow)
    assert len(epochs) == 25 * len(slow) + 90 * others - sum(
        30 * (3 - trial.folds) for trial in found.trials if trial not in slow
    )


def test_the_default_is_not_given_up(fake: type[Fake], monkeypatch: pytest.MonkeyPatch) -> None:
    class Hopeless(fake):  # type: ignore[valid-type,misc]
        def fit(self, X: Any, y: Any, groups: Any, **given: Any) -> Any:
            for epoch in range(40):
                self.arguments["options"].on_epoch(epoch, 5.0)
            return super().fit(X, y, groups, **given)

    monkeypatch.setattr(tuning, "Recognizer", Hopeless)
    found = search(3, adapters=("mlp",))
    assert [trial.state for trial in found.trials] == ["complete", "pruned", "pruned"]


def test_a_trial_that_cannot_be_fitted_is_told_and_does_not_end_the_search(fake: type[Fake]) -> None:
    def quality(arguments: dict[str, Any]) -> float:
        if arguments["adapter"] == "prototypes":
            raise LabelError("no prototypes today")
        return likes_strengths_near_one(arguments)

    fake.quality = staticmethod(quality)
    found = search(12)
    failed = [trial for trial in found.trials if trial.state == "failed"]
    assert failed
    assert all((trial.score, trial.reason) == (None, "LabelError: no prototypes today") for trial in failed)
    assert len(found.trials) == 12
    with pytest.raises(LabelError, match="no prototypes today"):
        search(3, adapters=("prototypes",))


def test_a_trial_with_the_parameters_of_an_earlier_one_is_not_fitted_again(fake: type[Fake]) -> None:
    found = search(6, adapters=("prototypes",))
    assert len(fake.fits) == 3
    assert len({trial.score for trial in found.trials}) == 1
    assert len(found.trials) == 6


def test_time_ends_a_search_after_the_default(fake: type[Fake]) -> None:
    found = search(50, seconds=1e-9)
    assert len(found.trials) == 1
    assert found.nested.gain == 0


def test_time_ends_a_trial_between_folds_and_epochs(fake: type[Fake], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("chiasm.recognition.tuning.time.monotonic", lambda: now[0])

    def tick(fits: int) -> None:
        now[0] = float(fits)

    fake.on_fit = staticmethod(tick)
    found = search(50, seconds=10.5)
    assert len(fake.fits) == 11
    assert sum(trial.folds for trial in found.trials if not repeated(found, trial)) in (9, 10, 11)
    assert all(trial.folds == 3 for trial in found.trials if trial.state == "complete")


def test_ctrl_c_keeps_what_is_finished(fake: type[Fake]) -> None:
    def interrupt(fits: int) -> None:
        if fits == 8:
            raise KeyboardInterrupt

    fake.on_fit = staticmethod(interrupt)
    found = search(20)
    assert found.interrupted
    assert len(found.trials) == 2
    assert search(2).interrupted is False


def test_ctrl_c_before_the_default_is_finished_goes_to_the_caller(fake: type[Fake]) -> None:
    def interrupt(fits: int) -> None:
        raise KeyboardInterrupt

    fake.on_fit = staticmethod(interrupt)
    with pytest.raises(KeyboardInterrupt):
        search(20)


# ----------------------------------------------------------------------------------------------------- again and resumed


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_a_seed_gives_the_same_search(fake: type[Fake], sampler: Any, tmp_path: Path) -> None:
    first = without_times(search(16, sampler=sampler))
    assert without_times(search(16, sampler=sampler, study=tmp_path / "on disk")) == first
    if sampler != "grid":
        assert without_times(search(16, sampler=sampler, seed=1))["trials"] != first["trials"]


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_an_interrupted_search_goes_on_as_if_it_had_not_been(fake: type[Fake], sampler: Any, tmp_path: Path) -> None:
    whole = without_times(search(16, sampler=sampler))
    path = tmp_path / "folder" / "study"
    for stop in (5, 12, 17):
        fake.fits.clear()

        def interrupt(fits: int, stop: int = stop) -> None:
            if fits == stop:
                raise KeyboardInterrupt

        fake.on_fit = staticmethod(interrupt)
        assert search(16, sampler=sampler, study=path).interrupted or sampler == "grid"
    fake.on_fit = staticmethod(lambda _: None)
    assert without_times(search(16, sampler=sampler, study=path)) == whole
    fits = len(fake.fits)
    told: list[TrialReport] = []
    assert without_times(search(16, sampler=sampler, study=path, on_trial=told.append)) == whole
    assert (len(fake.fits), told) == (fits, []), "there is nothing left to do"


def test_a_killed_search_goes_on_as_if_it_had_not_been(fake: type[Fake], tmp_path: Path) -> None:
    """Whatever part of the file had been written."""
    path = tmp_path / "study"
    whole = without_times(search(10, study=path))
    content = path.read_bytes()
    for part in np.linspace(0, len(content), 13)[:-1]:
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        first_line = content.index(b"\n") + 1
        path.write_bytes(content[: max(int(part), first_line)])
        path.with_name("study.lock").touch()
        assert without_times(search(10, study=path)) == whole


def test_more_trials_go_on_from_those_there_are(fake: type[Fake], tmp_path: Path) -> None:
    told: list[TrialReport] = []
    search(6, study=tmp_path / "study", on_trial=told.append)
    assert [trial.number for trial in told] == list(range(6))
    more = search(9, study=tmp_path / "study", on_trial=told.append)
    assert [trial.number for trial in told] == list(range(9))
    assert list(more.trials) == told
    assert without_times(more) == without_times(search(9))


def test_a_study_is_lines_of_json(fake: type[Fake], tmp_path: Path) -> None:
    search(3, study=tmp_path / "study")
    for line in (tmp_path / "study").read_text(encoding="utf-8").splitlines():
        assert "op_code" in json.loads(line)


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        ({"objective": "f1_macro"}, "optimises another objective than f1_macro"),
        ({"folds": 4}, "has other folds"),
        ({"seed": 1}, "has other folds: their number or the seed differ"),
        ({"adapters": ("linear",)}, "searches other adapters or fusions"),
        ({"groups": np.arange(60)}, "is of other items, labels, groups, names or source"),
        ({"source": SourceItems(*planted())}, "is of other items, labels, groups, names or source"),
    ],
)
def test_trials_of_something_else_are_not_gone_on_with(
    fake: type[Fake], other: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    search(2, study=tmp_path / "study")
    before = (tmp_path / "study").read_bytes()
    with pytest.raises(ChiasmError, match=problem):
        search(2, study=tmp_path / "study", **other)
    assert (tmp_path / "study").read_bytes() == before


def test_other_items_and_another_version_are_not_gone_on_with(
    fake: type[Fake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = planted()
    given: dict[str, Any] = {"trials": 2, "adapters": ("linear",), "folds": 3, "study": tmp_path / "study"}
    tune(X, y, **given)
    changed = X.vectors["image"].copy()
    changed[7, 3] += 1e-3
    with pytest.raises(ChiasmError, match="is of other items"):
        tune({"image": changed}, y, **given)
    hidden = {"image": np.vstack([X.vectors["image"], changed[:1]])}
    mask = {"image": np.arange(61) < 61}
    with pytest.raises(ChiasmError, match="is of other items"):
        tune(ModalityArrays(hidden, mask), np.append(y, "fish"), **given)
    monkeypatch.setattr(tuning, "VERSION", 2)
    with pytest.raises(ChiasmError, match="was made with another version of the space"):
        tune(X, y, **given)


def test_what_stands_in_rows_of_missing_embeddings_does_not_matter(fake: type[Fake], tmp_path: Path) -> None:
    X, y = planted(two=True)
    present = {"text": np.arange(60) % 2 == 0}
    for nonsense in (np.nan, 3.0):
        text = X.vectors["text"].copy()
        text[~present["text"]] = nonsense
        given = ModalityArrays({**X.vectors, "text": text}, present)
        tune(given, y, trials=2, adapters=("linear",), fusions=("concat",), study=tmp_path / "study")
    assert len(fake.fits) == 10


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"label,image\nbird,a.png\n", "is not a study: line 1 is not JSON"),
        (b'{"a": 1}\n', "is not a study: line 1 is not of Optuna's journal"),
        (b"no line", "is not a study: it holds no line"),
        (b'{"op_code": 4, "worker_id": "a"}\n', "is damaged"),
    ],
)
def test_files_that_are_no_study_are_refused_and_kept(
    fake: type[Fake], content: bytes, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "study"
    path.write_bytes(content)
    with pytest.raises(ChiasmError, match=problem):
        search(2, study=path)
    assert path.read_bytes() == content


def test_other_things_in_the_place_of_a_study_are_refused(
    fake: type[Fake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ChiasmError, match="is not a file"):
        search(2, study=tmp_path)
    path = tmp_path / "foreign"
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    optuna.create_study(storage=storage, study_name="chiasm").enqueue_trial({"x": 1})
    with pytest.raises(ChiasmError, match="is a study, but not of chiasm's"):
        search(2, study=path)
    optuna.create_study(storage=storage, study_name="another")
    with pytest.raises(ChiasmError, match="holds studies that are not of chiasm's"):
        search(2, study=path)
    with (
        FileLock(tmp_path / "busy.running"),
        pytest.raises(ChiasmError, match="is in use by another run: wait for it, or give another file"),
    ):
        search(2, study=tmp_path / "busy")
    monkeypatch.setattr(tuning, "_LARGEST_STUDY", 10)
    with pytest.raises(ChiasmError, match="larger than 10 bytes"):
        search(2, study=path)


# ----------------------------------------------------------------------------------------------------------- importance


def test_the_parameter_that_matters_is_the_most_important(fake: type[Fake]) -> None:
    found = search(40, adapters=("linear",), sampler="random")
    assert next(iter(found.importance)) in {"strength", "strength_from"}
    assert sum(found.importance.values()) == pytest.approx(1)
    assert found.importance["strength"] > found.importance["class_weight"]
    assert set(found.importance) == {"strength", "strength_from", "class_weight"}, "conditional ones are there"
    assert found.as_dict()["importance_by"] == "PED-ANOVA"
    assert search(5).importance == {}


# ------------------------------------------------------------------------------------------------------------- manners


def test_optuna_is_silent_and_left_as_it_was(
    fake: type[Fake], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    before = optuna.logging.get_verbosity()
    search(4)
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == before
    fake.on_fit = staticmethod(lambda _: (_ for _ in ()).throw(LabelError("broken")))
    with pytest.raises(LabelError):
        search(4)
    assert optuna.logging.get_verbosity() == before
    fake.on_fit = staticmethod(lambda _: None)
    optuna.logging.enable_propagation()
    try:
        search(2)
        assert not caplog.records
        search(2, log=True)
    finally:
        optuna.logging.disable_propagation()
    assert "A new study created" in caplog.text


def test_without_optuna_the_command_to_install_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"search for hyperparameters .* pip install 'chiasm\[tune\]'"):
        search(2)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"trials": 0}, "trials must be at least 1; got 0"),
        ({"sampler": "magic"}, "sampler must be one of tpe, random, grid; got 'magic'"),
        ({"objective": "auc"}, "objective must be one of brier, f1_macro; got 'auc'"),
        ({"seconds": 0}, "seconds must be above 0; got 0"),
        ({"adapters": ("linear", "forest")}, r"adapters must be some of auto, .*; got \['forest'\]"),
        ({"fusions": ()}, "fusions must be some of auto, .*; got none"),
        ({"folds": 1}, "at least 2 folds are needed; got 1"),
        ({"groups": np.zeros(60)}, "fewer than 2 folds have items that can be held out"),
        ({"groups": [1, 2]}, "60 rows but 2 groups"),
        ({"outer": [0, 1, 99]}, "outer must name rows from 0 to 59, each once; got 0 to 99"),
        ({"outer": [1, 1]}, "each once"),
        ({"outer": []}, "outer must be row numbers"),
        ({"outer": [3]}, "outer needs at least 2 items"),
        ({"outer": np.arange(60) > 3}, "outer must be row numbers; got bool"),
        ({"outer": [0, 5], "groups": np.arange(60) // 2}, "2 outer items share a group with others"),
        ({"outer": np.flatnonzero(planted()[1] == "frog")}, "all items of frog are outer"),
    ],
)
def test_bad_input_is_refused(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(ChiasmError, match=problem):
        search(**{"trials": 2, **given})


def test_bad_labels_are_refused() -> None:
    X, y = planted()
    with pytest.raises(LabelError, match="60 items but 59 labels"):
        tune(X, y[:-1], trials=2)
    with pytest.raises(LabelError, match="all 60 labels are the same"):
        tune(X, np.full(60, "bird"), trials=2)
    with pytest.raises(LabelError, match="fewer than 2 folds have items that can be held out"):
        tune(X, [f"item {number}" for number in range(60)], trials=2)


def test_what_is_found_can_be_fitted() -> None:
    X, y = planted(45)
    found = tune(X, y, trials=4, adapters=("prototypes", "linear"), folds=2)
    fitted = Recognizer(**found.best).fit(X, y)
    assert fitted.score(*planted(90, seed=9)) > 0.7
    assert not found.interrupted
