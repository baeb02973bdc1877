"""A search is judged on planted answers, is the same again for a seed, and loses nothing when it is interrupted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from chiasm.errors import ChiasmError, LabelError, MissingExtraError
from chiasm.recognition import ModalityArrays, Recognizer, RungOptions, SourceItems
from chiasm.recognition.networks import NetworkOptions
from chiasm.recognition.protocols import Items
from chiasm.recognition.tuning import TrialReport, Tuning, tune
from chiasm.splits import grouped_stratified_folds

CLASSES = np.array(["bird", "fish", "frog"])


def planted(number: int = 60, *, seed: int = 0, two: bool = False, groups: Any = None, **given: Any) -> Items:
    """Items whose class is the largest of their first three numbers, some of them a little off."""
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.arange(number) % 3)
    vectors: dict[Any, np.ndarray] = {
        "image": (np.eye(3, 8)[codes] + 0.35 * rng.normal(size=(number, 8))).astype(np.float32)
    }
    if two:
        vectors["text"] = (np.eye(3, 5)[codes] + rng.normal(size=(number, 5))).astype(np.float32)
    return Items.check(ModalityArrays(vectors), CLASSES[codes], groups, **given)


def strength_of(arguments: dict[str, Any]) -> float | None:
    options = arguments.get("options")
    return None if options is None or options.strengths is None else float(options.strengths[0])


def likes_strengths_near_one(arguments: dict[str, Any]) -> float:
    strength = strength_of(arguments)
    return 0.5 if strength is None else float(0.85 * np.exp(-(np.log10(strength) ** 2)))


class Maker:
    """Makes recognisers whose certainty of the largest number depends on their arguments alone."""

    def __init__(
        self,
        quality: Callable[[dict[str, Any]], float] = likes_strengths_near_one,
        on_fit: Callable[[int], None] = lambda fits: None,
    ) -> None:
        self.quality, self.on_fit, self.fits = quality, on_fit, 0

    def __call__(self, **arguments: Any) -> Fake:
        return Fake(self, arguments)


class Fake:
    def __init__(self, maker: Maker, arguments: dict[str, Any]) -> None:
        self.maker, self.arguments = maker, arguments

    def fit(self, X: Any, y: Any, groups: Any, **given: Any) -> Fake:
        self.maker.fits += 1
        self.maker.on_fit(self.maker.fits)
        self.classes_ = np.unique(y)
        self.sure = self.maker.quality(self.arguments)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        best = X.vectors["image"][:, : len(self.classes_)].argmax(axis=1)
        p: np.ndarray = self.sure * np.eye(len(self.classes_))[best] + (1 - self.sure) / len(self.classes_)
        return p


def search(trials: int = 12, **given: Any) -> Tuning:
    arguments = {"make": Maker(), "adapters": ("linear", "prototypes"), "folds": 3, **given}
    return tune(arguments.pop("items", planted()), trials=trials, **arguments)


def without_times(result: Tuning) -> dict[str, Any]:
    fields = result.as_dict()
    for trial in fields["trials"]:
        del trial["seconds"]
    return fields


# --------------------------------------------------------------------------------------------------------------- scores


def test_a_score_is_that_of_held_out_items_with_all_classes_alike() -> None:
    items = planted(50, groups=np.arange(50) // 2)
    result = tune(items, trials=1, adapters=("prototypes",), folds=3, seed=4)
    for fold, split in enumerate(grouped_stratified_folds(items.labels, 3, seed=4, groups=items.groups)):
        train, truth = items.take(split.train), np.searchsorted(CLASSES, items.labels[split.test])
        model = Recognizer(adapter="prototypes", unknown=None, random_state=4)
        p = model.fit(train.arrays, train.labels, train.groups).predict_proba(items.arrays.take(split.test))
        errors = np.square(p - np.eye(3)[truth]).sum(axis=1)
        expected = np.mean([errors[truth == k].mean() for k in range(3)])
        assert result.trials[0].scores[fold] == pytest.approx(expected)
    own = result.on_own_folds
    assert own.score == own.default == pytest.approx(np.mean(result.trials[0].scores))
    assert own.standard_error == pytest.approx(np.std(result.trials[0].scores, ddof=1) / np.sqrt(3))
    assert (own.gain, own.gain_error) == (0, 0)
    assert result.best == {"adapter": "prototypes", "fusion": "auto", "random_state": 4}


def test_the_planted_strength_is_recovered() -> None:
    result = search(30)
    strength = strength_of(dict(result.best))
    assert strength is not None and 0.2 < strength < 5
    assert result.parameters["strength"] == strength
    assert result.best["options"] == RungOptions(strengths=(strength,))
    assert result.on_own_folds.gain > max(0.05, result.on_own_folds.gain_error)
    assert result.on_own_folds.gain == pytest.approx(result.on_own_folds.default - result.on_own_folds.score)
    json.dumps(result.as_dict(), allow_nan=False)


def test_a_search_starts_from_the_defaults_and_never_ends_worse() -> None:
    maker = Maker(lambda arguments: 0.8 if arguments["adapter"] == "auto" else 0.3)
    result = search(6, make=maker, adapters=("auto", "linear", "prototypes"))
    assert result.trials[0].parameters == {"adapter": "auto", "fusion": "auto", "class_weight": None}
    assert result.trials[1].parameters["adapter"] == "linear"
    assert (result.number, result.on_own_folds.gain) == (0, 0)
    assert "the default is as good a choice" in result.warning


def test_the_choice_is_measured_on_the_folds_that_did_not_choose() -> None:
    """Strengths that are good on one fold by chance: the best of them is optimistic, the nested score is not."""
    items = planted()
    splits = grouped_stratified_folds(items.labels, 3, seed=0)
    fold_of_row = {items.arrays.vectors["image"][row].tobytes(): k for k, s in enumerate(splits) for row in s.test}

    class ByChance(Fake):
        def predict_proba(self, X: Any) -> np.ndarray:
            fold = fold_of_row[X.vectors["image"][0].tobytes()]
            seed = [int(1e6 * (strength_of(self.arguments) or 0)), fold]
            self.sure = float(np.random.default_rng(seed).uniform(0.1, 0.9))
            return super().predict_proba(X)

    maker = Maker()
    result = search(25, items=items, make=lambda **arguments: ByChance(maker, arguments), adapters=("linear",))
    scores = np.array([trial.scores for trial in result.trials if trial.state == "complete"])
    nested = [scores[np.delete(scores, fold, axis=1).mean(axis=1).argmin(), fold] for fold in range(3)]
    assert result.nested.score == pytest.approx(np.mean(nested))
    assert result.nested.score > result.on_own_folds.score == pytest.approx(scores.mean(axis=1).min())
    assert f"it is {result.nested.score:.3f}" in result.warning and "optimistic" in result.warning


def test_the_parameter_that_matters_is_the_most_important() -> None:
    result = search(40, adapters=("linear",), sampler="random")
    assert next(iter(result.importance)) in {"strength", "strength_from"}
    assert sum(result.importance.values()) == pytest.approx(1)
    assert result.importance["strength"] > result.importance["class_weight"]
    assert search(5).importance == {}


# ----------------------------------------------------------------------------------------------------------- the space

TRAINING = {"learning_rate", "weight_decay", "l1", "mixup"}
FUSED = TRAINING | {"class_weight", "width", "dropout", "modality_dropout"}
CONDITIONS = {
    "auto": {"class_weight"},
    "zero-shot": set[str](),
    "prototypes": set[str](),
    "linear": {"class_weight", "strength_from", "strength"},
    "network": {"class_weight", "hidden", "dropout"} | TRAINING,
    "gated": FUSED,
    "attention": FUSED,
}


def test_every_parameter_is_of_its_adapter_or_fusion_and_reaches_the_recogniser() -> None:
    source = planted(seed=1, two=True)
    names = dict(zip(CLASSES.tolist(), np.eye(3, 8), strict=True))
    items = planted(two=True, names=names, source=SourceItems(source.arrays, source.labels))
    made: list[Recognizer] = []

    def make(**arguments: Any) -> Fake:
        made.append(Recognizer(**arguments))
        return Fake(Maker(), arguments)

    result = tune(items, trials=150, make=make, sampler="random", folds=2)
    seen: dict[Any, set[str]] = {}
    for trial in result.trials:
        drawn = dict(trial.parameters)
        fusion = drawn.pop("fusion")
        seen.setdefault(drawn.pop("adapter", fusion), set()).update(drawn)
    assert seen == {name: parameters | {"alpha_from", "alpha"} for name, parameters in CONDITIONS.items()}
    distinct = {repr(sorted(trial.parameters.items())) for trial in result.trials}
    assert len({repr(model.get_params()) for model in made}) == len(distinct) > 100
    default = {**made[0].get_params(), "unknown": "auto"}
    assert default == Recognizer().get_params()


@pytest.mark.parametrize("given", [{"adapters": ("network",)}, {"fusions": ("gated",)}, {"fusions": ("attention",)}])
def test_the_default_of_a_network_is_that_of_its_options(given: Any) -> None:
    assert search(1, items=planted(two=True), **given).best["options"] == RungOptions(network=NetworkOptions())


def test_what_the_items_do_not_have_is_not_searched() -> None:
    drawn = [trial.parameters for trial in search(40, sampler="random", adapters=None).trials]
    assert {parameters["fusion"] for parameters in drawn} == {"auto"}, "one modality"
    assert "zero-shot" not in {parameters["adapter"] for parameters in drawn}, "no names"
    assert not any("alpha_from" in parameters for parameters in drawn), "no source"


# ---------------------------------------------------------------------------------------------------- trials and pruning


def test_trials_behind_the_median_are_pruned_but_not_the_defaults() -> None:
    result = search(30, sampler="random")
    pruned = [trial for trial in result.trials if trial.state == "pruned"]
    assert pruned and all(len(trial.scores) < 3 and "behind the median" in trial.reason for trial in pruned)
    assert all(len(trial.scores) == 3 for trial in result.trials if trial.state == "complete")
    for trial in pruned:
        before = [t.scores for t in result.trials[: trial.number] if t.state == "complete"]
        steps = len(trial.scores)
        assert len(before) >= 5
        assert np.mean(trial.scores) > np.median([np.mean(scores[:steps]) for scores in before])


def test_a_trial_that_cannot_be_fitted_is_pruned_and_does_not_end_the_search() -> None:
    def quality(arguments: dict[str, Any]) -> float:
        if arguments["adapter"] == "prototypes":
            raise LabelError("no prototypes today")
        return likes_strengths_near_one(arguments)

    result = search(12, make=Maker(quality))
    failed = [trial for trial in result.trials if trial.parameters["adapter"] == "prototypes"]
    assert failed
    assert all((trial.scores, trial.reason) == ((), "LabelError: no prototypes today") for trial in failed)
    with pytest.raises(LabelError, match="no prototypes today"):
        search(3, make=Maker(quality), adapters=("prototypes",))


def test_parameters_that_come_again_are_not_fitted_again() -> None:
    maker = Maker()
    result = search(6, make=maker, adapters=("prototypes",))
    assert maker.fits == 3
    assert len(result.trials) == 6
    assert len({trial.scores for trial in result.trials}) == 1


# ---------------------------------------------------------------------------------------------------- again and continued


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_an_interrupted_search_continues_as_if_it_had_not_been(sampler: Any, tmp_path: Path) -> None:
    whole = without_times(search(16, sampler=sampler))
    study = tmp_path / "folder" / "a study?%20"
    for stop in (5, 8, 6):

        def interrupt(fits: int, stop: int = stop) -> None:
            if fits == stop:
                raise KeyboardInterrupt

        assert search(16, sampler=sampler, study=study, make=Maker(on_fit=interrupt)).interrupted
    assert without_times(search(16, sampler=sampler, study=study)) == whole
    idle = Maker(on_fit=lambda fits: pytest.fail("there is nothing left to do"))
    assert without_times(search(16, sampler=sampler, study=study, make=idle)) == whole
    other_seed = without_times(search(16, sampler=sampler, seed=1))
    assert other_seed["trials"] != whole["trials"]


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from test_tuning import Maker, search
search(8, study={study!r}, make=Maker(on_fit=lambda fits: (print(fits, flush=True), sys.stdin.read() if fits == {stop} else None)))
"""


@pytest.mark.race
def test_a_killed_search_continues_as_if_it_had_not_been(tmp_path: Path) -> None:
    study = tmp_path / "study"
    code = KILLED.format(tests=str(Path(__file__).parent), study=str(study), stop=11)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:  # it waits for input that does not come
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 11:
                process.kill()
                break
    reports: list[TrialReport] = []
    assert without_times(search(8, study=study, on_trial=reports.append)) == without_times(search(8))
    assert [report.number for report in reports] == list(range(8))[-len(reports) :]
    assert 0 < len(reports) < 8


def test_more_trials_continue_from_those_there_are(tmp_path: Path) -> None:
    reports: list[TrialReport] = []
    search(6, study=tmp_path / "study", on_trial=reports.append)
    more = search(9, study=tmp_path / "study", on_trial=reports.append)
    assert [report.number for report in reports] == list(range(9))
    assert list(more.trials) == reports
    assert without_times(more) == without_times(search(9))


def test_ctrl_c_keeps_what_is_finished_once_the_default_is() -> None:
    def interrupt_at(number: int) -> Maker:
        def interrupt(fits: int) -> None:
            if fits == number:
                raise KeyboardInterrupt

        return Maker(on_fit=interrupt)

    result = search(20, make=interrupt_at(8))
    assert result.interrupted and 2 <= len(result.trials) < 20
    with pytest.raises(KeyboardInterrupt):
        search(20, make=interrupt_at(2))


def changed_pixel() -> Items:
    items = planted()
    items.arrays.vectors["image"][7, 3] += 1e-3
    return items


def test_trials_of_other_searches_are_neither_continued_nor_lost(tmp_path: Path) -> None:
    study = tmp_path / "study"
    first = without_times(search(3, study=study))
    others: list[dict[str, Any]] = [
        {"items": changed_pixel()},
        {"items": planted(groups=np.arange(60) // 2)},
        {"items": planted(names=dict.fromkeys(CLASSES.tolist(), np.zeros(8)))},
        {"items": planted(source=SourceItems(planted(seed=1).arrays, planted(seed=1).labels))},
        {"folds": 4},
        {"seed": 1},
        {"adapters": ("linear",)},
        {"sampler": "random"},
    ]
    for other in others:
        fresh = Maker()
        search(1, study=study, make=fresh, **other)
        assert fresh.fits >= 3, f"{other}: trials were taken from another search"
    idle = Maker(on_fit=lambda fits: pytest.fail("all trials are there"))
    assert without_times(search(3, study=study, make=idle)) == first


def test_rows_of_missing_embeddings_may_hold_anything(tmp_path: Path) -> None:
    present = {"text": np.arange(60) % 2 == 0}
    fits = []
    for nonsense in (np.nan, 3.0):
        vectors = dict(planted(two=True).arrays.vectors)
        vectors["text"] = np.where(present["text"][:, None], vectors["text"], np.float32(nonsense))
        items = Items.check(ModalityArrays(vectors, present), planted().labels)
        maker = Maker()
        search(2, items=items, make=maker, fusions=("concat",), study=tmp_path / "study")
        fits.append(maker.fits)
    assert fits[0] > fits[1] == 0


@pytest.mark.parametrize("content", [b"label,image\nbird,a.png\n", b'{"op_code": 4}\n' * 50])
def test_files_that_are_no_study_are_refused_and_kept(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "study"
    path.write_bytes(content)
    with pytest.raises(ChiasmError, match="not a study"):
        search(2, study=path)
    assert path.read_bytes() == content
    with pytest.raises(ChiasmError, match="not a study"):
        search(2, study=tmp_path)


# ------------------------------------------------------------------------------------------------------------- manners


def test_optuna_is_silent_and_left_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    search(4)
    with pytest.raises(LabelError):
        search(4, make=Maker(lambda arguments: (_ for _ in ()).throw(LabelError("broken"))))
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == before


def test_without_optuna_the_command_to_install_it_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'chiasm\[tune\]'"):
        search(2)


@pytest.mark.parametrize(
    ("given", "term"),
    [
        ({"trials": 0}, "trials must be at least 1"),
        ({"sampler": "magic"}, "sampler must be one of tpe, random"),
        ({"adapters": ("linear", "forest")}, "adapters must be some of auto"),
        ({"fusions": ()}, "fusions must be some of auto, .*; got none"),
        ({"folds": 1}, "at least 2 folds"),
        ({"items": planted(groups=np.arange(60) // 30)}, "2 groups cannot be dealt into 3 folds"),
        ({"items": Items.check(planted(6).arrays, list("abcdef"))}, "no class has items on both sides"),
    ],
)
def test_bad_input_is_refused(given: dict[str, Any], term: str) -> None:
    with pytest.raises(ChiasmError, match=term):
        search(**{"trials": 2, **given})


def test_the_best_arguments_can_be_fitted() -> None:
    items, fresh = planted(45), planted(90, seed=9)
    result = tune(items, trials=4, adapters=("prototypes", "linear"), folds=2)
    assert Recognizer(**result.best).fit(items.arrays, items.labels).score(fresh.arrays, fresh.labels) > 0.7
    assert not result.interrupted


class WithoutTorch(PathFinder):
    """Finds every package but torch."""

    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return None if fullname == "torch" else super().find_spec(fullname, path, target)


def test_a_search_without_networks_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Networks" not in search(2).warning
    monkeypatch.setattr(sys, "meta_path", [WithoutTorch if one is PathFinder else one for one in sys.meta_path])
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    found = search(2)
    assert (
        "Networks were not among the trials: PyTorch is not installed (pip install 'chiasm[train]')." in found.warning
    )
    assert found.as_dict()["left_out"]
    assert not search(2, adapters=["linear"], fusions=["concat"]).left_out, "they were not asked for"
