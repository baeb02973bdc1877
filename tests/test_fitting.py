"""What the recogniser chooses is chosen on held-out items, and what it promises of new items holds for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from chiasm.errors import ChiasmError, LabelError
from chiasm.recognition import ModalityArrays, Recognizer, RungOptions, SourceItems, fitting, training_set
from chiasm.recognition.columns import FusionName, join, route
from chiasm.recognition.fitting import (
    Options,
    choose_across,
    choose_fusion,
    choose_rung,
    choose_source,
    learn,
    move_source,
)
from chiasm.recognition.heads import RUNGS
from chiasm.recognition.ladder import deal_folds, f1_macro
from chiasm.recognition.linear_probe import LinearProbe
from chiasm.recognition.modalities import Features
from chiasm.recognition.networks import NetworkOptions
from chiasm.recognition.targets import Target
from chiasm.recognition.training_set import Data, State
from chiasm.training import Training
from chiasm.types import Modality
from chiasm.vectors import expected_calibration_error

NAMES = np.array(["bird", "fish", "frog", "newt", "swan"])
DIM = 16
CENTRES = np.random.default_rng(0).normal(size=(5, DIM))
FAST = RungOptions(network=NetworkOptions(hidden=8, training=Training(epochs=8)))


def planted(
    items: int,
    seed: int,
    *,
    classes: int = 4,
    noise: float = 1.2,
    text_noise: float = 1.2,
    offset: float = 0.0,
    kinds: tuple[Modality, ...] = ("image", "text"),
) -> tuple[ModalityArrays, np.ndarray]:
    """Items in a space that images, texts and names of classes share; noise is of each modality's own."""
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.arange(items) % classes)
    shared = {
        name: (CENTRES[codes] + amount * rng.normal(size=(items, DIM)) + offset).astype(np.float32)
        for name, amount in zip(("image", "text"), (noise, text_noise), strict=True)
        if name in kinds
    }
    return ModalityArrays(shared=shared), NAMES[codes]


def fitted_of(model: Recognizer) -> tuple[np.ndarray, np.ndarray]:
    """How many items a model learned from by class, and the classes of those that it keeps."""
    column = model.only_column_
    assert column.counts is not None and column.exemplars is not None
    return column.counts, column.exemplars.codes


def named(classes: int = 4) -> dict[str, np.ndarray]:
    return {str(NAMES[k]): CENTRES[k].astype(np.float32) for k in range(classes)}


def linear(**options: Any) -> Recognizer:
    return Recognizer(**{"adapter": "linear", "fusion": "concat", "unknown": None, "folds": 3, **options})


def data_of(arrays: ModalityArrays, y: np.ndarray, *, folds: int = 5, **given: Any) -> Data:
    """What the choices are functions of."""
    codes = np.searchsorted(NAMES, y)
    target = Target("label", "classes", codes, np.ones(len(y), dtype=bool), NAMES[:4])
    fold_of = deal_folds(codes, folds, seed=0, groups=None)
    return Data(target, arrays, Features.of(arrays), fold_of, **given)


FRESH, TRUTH = planted(500, seed=99)


# ------------------------------------------------------------------------------------------------------------- a source


def test_a_source_that_helps_is_used() -> None:
    X, y = planted(12, seed=1, noise=2.0, kinds=("image",))
    source = SourceItems(*planted(200, seed=2, noise=1.5, offset=3.0, kinds=("image",)))
    fresh, truth = planted(500, seed=98, noise=2.0, kinds=("image",))
    alone, helped = linear().fit(X, y), linear().fit(X, y, source=source)
    assert helped.details_.alpha > 0
    assert f"{helped.details_.alpha:g}" in helped.details_.source
    assert helped.score(fresh, truth) > alone.score(fresh, truth) + 0.05


def test_a_source_that_would_hurt_is_refused() -> None:
    X, y = planted(60, seed=3)
    arrays, labels = planted(200, seed=4)
    wrong = NAMES[(np.searchsorted(NAMES, labels) + 1) % 4]
    helped = linear().fit(X, y, source=SourceItems(arrays, wrong))
    assert helped.details_.alpha == 0
    assert helped.details_.source
    np.testing.assert_array_equal(helped.predict_proba(FRESH), linear().fit(X, y).predict_proba(FRESH))


def test_a_source_is_moved_where_that_is_better() -> None:
    """The classes are told apart by its rows as they are, or by those that they are moved to."""
    X, y = planted(12, seed=1, noise=2.0, kinds=("image",))
    good, labels = planted(200, seed=2, noise=1.5, offset=3.0, kinds=("image",))
    noise = ModalityArrays(shared={"image": planted(200, seed=2, noise=6.0, kinds=("image",))[0].shared["image"]})
    unlabelled, _ = planted(150, seed=3, noise=2.0, kinds=("image",))
    rows = [Features.of(one).rows(one, ("image",), np.arange(200)) for one in (good, noise)]
    for arrays, moved, used in ((good, rows[1], False), (noise, rows[0], True)):
        source = (arrays, np.searchsorted(NAMES, labels))
        data = data_of(X, y, folds=3, source=source, source_features=Features.of(arrays), unlabelled=unlabelled)
        assert move_source(data, [("image",)], seed=0).source_moved["image",].shape == (200, DIM)
        given = replace(data, source_moved={("image",): moved})
        state, words = choose_source(given, Options(), State(), ("image",))
        assert state.alpha > 0
        assert state.source_moved == ("moved among those of the target" in words) == used
        assert not move_source(replace(data, unlabelled=None), [("image",)], seed=0).source_moved


def test_the_weight_of_a_source_can_be_said() -> None:
    X, y = planted(40, seed=5)
    source = SourceItems(*planted(60, seed=6))
    model = linear(alpha=0.3).fit(X, y, source=source)
    assert (model.details_.alpha, model.details_.source) == (0.3, "The source is used with weight 0.3, as asked.")
    assert linear(alpha=0).fit(X, y, source=source).details_.alpha == 0


def test_the_weight_of_a_source_is_its_share_of_the_loss() -> None:
    X, y = planted(40, seed=5)
    arrays, labels = planted(90, seed=6)
    data = data_of(X, y, source=(arrays, np.searchsorted(NAMES, labels)), source_features=Features.of(arrays))
    shots = data.source_shots(("image", "text"), 0.3)
    assert shots is not None
    assert shots.weight.sum() / (shots.weight.sum() + 40) == pytest.approx(0.3)


def test_classes_of_the_source_that_the_target_lacks_are_left_out() -> None:
    X, y = planted(40, seed=7)
    arrays, labels = planted(100, seed=8, classes=5)
    kept = labels != "swan"
    one = linear(alpha=0.5).fit(X, y, source=SourceItems(arrays, labels))
    other = linear(alpha=0.5).fit(X, y, source=SourceItems(arrays.take(np.flatnonzero(kept)), labels[kept]))
    np.testing.assert_allclose(one.predict_proba(FRESH), other.predict_proba(FRESH), atol=1e-6)


@pytest.mark.parametrize(
    ("items", "kinds", "reason"),
    [(40, ("text",), "no items with image+text"), (4, ("image", "text"), "Too few items can be held out")],
)
def test_a_source_that_is_of_no_use(items: int, kinds: tuple[Modality, ...], reason: str) -> None:
    X, y = planted(items, seed=9)
    model = linear().fit(X, y, source=SourceItems(*planted(50, seed=10, kinds=kinds)))
    assert reason in model.details_.source
    assert model.details_.alpha == 0


def test_choices_are_functions_of_what_they_are_given() -> None:
    """Asked twice, a choice says the same, and what it was given is as it was."""
    X, y = planted(40, seed=5)
    arrays, labels = planted(90, seed=6)
    data = data_of(X, y, source=(arrays, np.searchsorted(NAMES, labels)), source_features=Features.of(arrays))
    options, state, main = Options(), State(), ("image", "text")
    assert choose_source(data, options, state, main) == choose_source(data, options, state, main)  # type: ignore[arg-type]
    first, second = (choose_rung(data, options, state, main) for _ in range(2))  # type: ignore[arg-type]
    assert (first[0], [report.why for report in first[1]]) == (second[0], [report.why for report in second[1]])
    learned = {("image",): learn(data, options, state, ("image",)), ("text",): learn(data, options, state, ("text",))}
    before = dict(learned)
    assert choose_across(data, options, state, learned)[0] == choose_across(data, options, state, learned)[0]  # type: ignore[arg-type]
    assert learned == before
    assert state == State()


# ------------------------------------------------------------------------------------------------------ unlabelled items


@pytest.mark.parametrize("semi", ["self-training", "spreading"])
def test_unlabelled_items_that_help_are_used(semi: Any) -> None:
    X, y = planted(24, seed=13, noise=1.5, kinds=("image",))
    unlabelled, _ = planted(300, seed=14, noise=1.5, kinds=("image",))
    fresh, truth = planted(500, seed=97, noise=1.5, kinds=("image",))
    alone = linear().fit(X, y)
    model = linear(semi=semi).fit(X, y, unlabelled=unlabelled)
    assert model.details_.semi.startswith(f"{semi} with 300 unlabelled items is used: Brier score")
    assert model.score(fresh, truth) > alone.score(fresh, truth)


def test_unlabelled_items_that_do_not_help_are_refused() -> None:
    X, y = planted(60, seed=15, noise=1.0)
    noise = np.random.default_rng(1).normal(size=(200, DIM)).astype(np.float32)
    unlabelled = ModalityArrays(shared={"image": noise, "text": noise[::-1]})
    model = linear(semi="self-training").fit(X, y, unlabelled=unlabelled)
    assert "is refused: Brier score of held-out items" in model.details_.semi
    np.testing.assert_array_equal(model.predict_proba(FRESH), linear().fit(X, y).predict_proba(FRESH))


def test_unlabelled_items_of_other_modalities_are_told_of() -> None:
    X, y = planted(40, seed=16)
    told = "There are no unlabelled items with image+text."
    assert linear(semi="spreading").fit(X, y).details_.semi == told
    texts, _ = planted(30, seed=17, kinds=("text",))
    assert linear(semi="spreading").fit(X, y, unlabelled=texts).details_.semi == told


# ------------------------------------------------------------------------------------------- other modalities as shots


def test_other_modalities_are_shots_where_they_help() -> None:
    """Few noisy pictures whose captions lie close to the centres of their classes in the shared space."""
    X, y = planted(16, seed=18, noise=3.0, text_noise=0.3)
    model = linear().fit(X, y)
    assert "image" in model.details_.across
    alone = linear().fit(ModalityArrays(shared={"image": X.shared["image"]}), y)
    fresh, truth = planted(500, seed=96, noise=3.0, text_noise=0.3)
    pictures = ModalityArrays(shared={"image": fresh.shared["image"]})
    assert model.score(pictures, truth) > alone.score(pictures, truth) + 0.02


def test_other_modalities_that_mislead_are_left_out() -> None:
    X, y = planted(40, seed=19)
    shuffled = np.random.default_rng(0).permutation(40)
    wrong = ModalityArrays(shared={"image": X.shared["image"], "text": -5 * X.shared["text"][shuffled]})
    assert linear().fit(wrong, y).details_.across == ()


def test_the_caption_of_a_held_out_picture_is_held_out_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures and captions say nothing of the class, but each caption is its picture: seen, it would give it away."""
    rng = np.random.default_rng(20)
    rows = rng.normal(size=(40, DIM)).astype(np.float32)
    X = ModalityArrays(shared={"image": rows, "text": rows.copy()})
    y = NAMES[rng.permutation(np.arange(40) % 4)]
    monkeypatch.setattr(training_set, "ACROSS", 5.0)
    model = Recognizer(adapter="prototypes", fusion="mean", unknown=None).fit(X, y)
    for name in ("image", "text"):
        assert model.details_.subsets[name] < 0.5
    assert model.only_column_.held_out is not None
    held = model.only_column_.held_out
    assert np.mean(held.argmax(axis=1) == np.searchsorted(NAMES, y)) < 0.5


# --------------------------------------------------------------------------------------------------------------- fusion


@pytest.mark.parametrize("fusion", ["single", "mean", "stack", "concat", "gated", "attention"])
def test_every_fusion_works_whatever_is_missing(fusion: FusionName) -> None:
    X, y = planted(60, seed=21)
    training = Training(epochs=12, learning_rate=2e-2)
    model = Recognizer(
        adapter="linear",
        fusion=fusion,
        unknown=None,
        folds=2,
        options=RungOptions(network=NetworkOptions(training=training)),
    ).fit(X, y)
    assert model.details_.fusion == fusion
    assert model.details_.fusions[fusion] > 0.6
    for part in (("image",), ("text",), ("image", "text")):
        fresh = FRESH.only(part)
        assert model.score(fresh, TRUTH) > 0.6, part
        p = model.predict_proba(fresh)
        np.testing.assert_allclose(p.sum(axis=1), 1)
        assert expected_calibration_error(p.max(axis=1), NAMES[p.argmax(axis=1)] == TRUTH) < 0.2
    assert (model.details_.fusion_gain is None) == (fusion == "single")


def test_auto_takes_a_fusion_where_both_modalities_tell_of_the_class() -> None:
    X, y = planted(80, seed=22)
    model = Recognizer(adapter="linear", unknown=None).fit(X, y)
    details = model.details_
    assert details.fusion in {"mean", "stack", "concat"}
    assert set(details.fusions) == {"single", "mean", "stack", "concat"}
    assert details.fusion_gain is not None
    assert details.fusion_gain[0] > details.fusion_gain[1] > 0
    assert set(details.subsets) == {"image", "text", "image+text"}
    assert details.subsets["image+text"] == details.fusions[details.fusion]
    assert model.score(FRESH, TRUTH) > max(
        model.score(FRESH.only(("image",)), TRUTH), model.score(FRESH.only(("text",)), TRUTH)
    )


def test_auto_falls_back_to_the_better_modality_where_the_other_is_noise() -> None:
    X, y = planted(80, seed=23, text_noise=100.0)
    model = Recognizer(adapter="linear", unknown=None).fit(X, y)
    assert (model.details_.fusion, model.details_.best_modality) == ("single", "image")
    fresh, _ = planted(200, seed=95, text_noise=100.0)
    np.testing.assert_array_equal(model.predict(fresh), model.predict(fresh.only(("image",))))
    assert set(model.only_column_.heads) == {("image",), ("text",)}


def test_probabilities_of_a_learned_fusion_are_calibrated_by_its_own_predictions() -> None:
    X, y = planted(60, seed=24)
    model = Recognizer(adapter="linear", fusion="gated", unknown="knn", options=FAST, folds=2).fit(X, y)
    data = data_of(X, y, folds=2)
    learned = {part: learn(data, Options(), State(), part) for part in (("image",), ("text",), ("image", "text"))}
    fusion = choose_fusion(data, Options(fusion="gated", rungs=FAST), State(), learned, ("image", "text"))  # type: ignore[arg-type]
    assert model.only_column_.held_out is not None
    np.testing.assert_array_equal(model.only_column_.held_out, fusion.network_logs["image", "text"])
    assert model.details_.subsets["text"] == pytest.approx(f1_macro(fusion.network_logs["text",], data.codes))
    assert model.only_column_.detectors == {}


def test_items_whose_modalities_teach_nothing_do_not_stop_a_learned_fusion() -> None:
    X, y = planted(60, seed=25)
    text = np.array(y == "newt")
    X = ModalityArrays(shared=X.shared, present={"text": text, "image": np.arange(60) > 3})
    kept = np.flatnonzero(text | (np.arange(60) > 3))
    model = Recognizer(adapter="linear", fusion="gated", options=FAST, folds=2).fit(X.take(kept), y[kept])
    assert set(model.only_column_.heads) == {("image",)}


def test_a_learned_fusion_takes_a_source_that_lacks_a_modality() -> None:
    X, y = planted(40, seed=26)
    images, labels = planted(40, seed=27, kinds=("image",))
    both, more = planted(5, seed=28)
    source = SourceItems(images.joined(both), np.concatenate([labels, more]))
    model = Recognizer(adapter="linear", fusion="gated", alpha=0.5, options=FAST, folds=2).fit(X, y, source=source)
    assert model.details_.alpha == 0.5
    only_images = Recognizer(adapter="linear", fusion="gated", alpha=0.5, options=FAST, folds=2)
    assert only_images.fit(X, y, source=SourceItems(images, labels)).details_.alpha == 0


def test_routes() -> None:
    heads: tuple[tuple[Modality, ...], ...] = (("image",), ("text",), ("audio",), ("image", "text"))
    every: tuple[Modality, ...] = ("image", "text", "audio")
    assert route("concat", every, heads, "text") == (("audio",), ("image", "text"))
    assert route("mean", every, heads, "text") == (("image",), ("text",), ("audio",))
    assert route("single", every, heads, "text") == (("text",),)
    assert route("single", ("image", "audio"), heads, "text") == (("image",), ("audio",))
    assert route("stack", ("image",), heads, "text") == (("image",),)


def test_the_mean_is_geometric_and_rules_nothing_out() -> None:
    a, b = np.array([[0.7, 0.3, 0.0]]), np.array([[0.2, 0.2, 0.6]])
    with np.errstate(divide="ignore"):
        logs = {("image",): np.log(a), ("text",): np.log(b)}
    joined = np.exp(join("mean", logs, {("image",): 4, ("text",): 9}, None, ("image", "text"), 3))  # type: ignore[arg-type]
    by_hand = np.sqrt((4 * a + 1 / 3) / 5 * (9 * b + 1 / 3) / 10)
    np.testing.assert_allclose(joined, by_hand / by_hand.sum())
    assert joined[0, 2] > 0.01


# ----------------------------------------------------------------------------------------------------- names and ladder


def test_a_class_without_items_is_known_by_its_name() -> None:
    X, y = planted(40, seed=29)
    fresh, truth = planted(250, seed=94, classes=5)
    for adapter in ("zero-shot", "prototypes", "linear"):
        model = Recognizer(adapter=adapter, fusion="concat", unknown=None).fit(X, y, names=named(5))
        assert model.classes_.tolist() == NAMES.tolist()
        found = model.predict(fresh)
        assert np.mean(found[truth == "swan"] == "swan") > 0.5, adapter
        assert np.mean(found[truth != "swan"] == truth[truth != "swan"]) > 0.6, adapter
        assert fitted_of(model)[0].tolist() == [10, 10, 10, 10, 0]


def test_names_help_at_one_shot_and_let_items_be_held_out() -> None:
    X, y = planted(4, seed=30, noise=2.0, text_noise=2.0)
    bare, helped = linear().fit(X, y), linear().fit(X, y, names=named())
    fresh, truth = planted(500, seed=93, noise=2.0, text_noise=2.0)
    assert helped.score(fresh, truth) > bare.score(fresh, truth) + 0.1
    assert bare.details_.subsets == {}
    assert set(helped.details_.subsets) == {"image", "text", "image+text"}
    chosen = Recognizer(unknown=None).fit(X, y, names=named()).details_
    assert chosen.rung == "linear"
    (taken,) = [report for report in chosen.rungs if report.taken]
    assert taken.rung == "linear"
    assert "fewer than 6 items" in taken.why
    assert not any(report.tried for report in chosen.rungs)


def test_the_ladder_is_climbed_and_reported() -> None:
    X, y = planted(60, seed=31)
    model = Recognizer(options=FAST, folds=3).fit(X, y, names=named())
    details = model.details_
    assert [report.rung for report in details.rungs] == list(RUNGS)
    assert [report.tried for report in details.rungs] == [True, True, True, False]  # too few items for a network
    assert [report.rung for report in details.rungs if report.taken] == [details.rung]
    assert details.rung in {"zero-shot", "prototypes"}  # the names are the centres themselves
    assert {head.rung for head in model.only_column_.heads.values()} == {details.rung}
    assert set(details.numbers) == {"+".join(part) for part in model.only_column_.heads}
    assert all(numbers["scale"] > 0 for numbers in details.numbers.values())
    as_json = details.as_dict()
    assert as_json["rungs"][0]["rung"] == "zero-shot"
    assert as_json["fusion"] == details.fusion


def test_a_rung_that_is_asked_for_is_taken() -> None:
    X, y = planted(48, seed=32)
    for adapter in RUNGS:
        model = Recognizer(adapter=adapter, fusion="concat", unknown=None, options=FAST, folds=2)
        model.fit(X, y, names=named())
        assert {head.rung for head in model.only_column_.heads.values()} == {adapter}
        assert [report.why for report in model.details_.rungs] == ["chosen by the caller"] * 4
        assert [report.rung for report in model.details_.rungs if report.taken] == [adapter]


# ----------------------------------------------------------------------------------------------------------- open world


def test_calibration_mends_overconfidence() -> None:
    """A probe with next to no penalty on few noisy items is always sure, and often wrong."""
    X, y = planted(60, seed=33, noise=2.0, kinds=("image",))
    model = linear(options=RungOptions(strengths=(1e-2,))).fit(X, y)
    fresh, truth = planted(800, seed=92, noise=2.0, kinds=("image",))
    codes = np.searchsorted(NAMES, truth)
    raw = np.exp(model.only_column_.outputs(fresh, ("image",), np.arange(800)))
    before, after = (
        expected_calibration_error(p.max(axis=1), p.argmax(axis=1) == codes) for p in (raw, model.predict_proba(fresh))
    )
    assert before > 0.15
    assert after < 0.08
    calibration = model.only_column_.calibrations["image",]
    assert calibration.ece_after < calibration.ece_before


def test_sets_hold_the_truth_as_often_as_asked() -> None:
    X, y = planted(300, seed=34, noise=2.5, text_noise=2.5)
    model = linear().fit(X, y)
    fresh, truth = planted(1500, seed=91, noise=2.5, text_noise=2.5)
    for part in (("image",), ("image", "text")):
        sizes = []
        for level in (0.8, 0.95):
            sets = model.recognise(fresh.only(part), level=level).sets
            covered = sets[np.arange(1500), np.searchsorted(NAMES, truth)].mean()
            assert covered == pytest.approx(level, abs=0.045), part
            sizes.append(sets.sum(axis=1).mean())
        assert 1 <= sizes[0] < sizes[1] < 4


def test_too_few_items_promise_nothing() -> None:
    X, y = planted(16, seed=35)
    found = Recognizer(adapter="linear").fit(X, y).recognise(FRESH)
    assert found.sets.all()
    assert not found.unknown.any()
    assert np.isnan(found.strangeness).all()


def strangers(items: int) -> ModalityArrays:
    """Items of classes that nobody has seen."""
    rng = np.random.default_rng(36)
    centres = 2.5 * rng.normal(size=(5, DIM))[np.arange(items) % 5]
    return ModalityArrays(
        shared={n: (centres + rng.normal(size=(items, DIM))).astype(np.float32) for n in ("image", "text")}
    )


@pytest.mark.parametrize("unknown", ["auto", "knn", "mahalanobis"])
@pytest.mark.parametrize("named_classes", [False, True])
def test_unknown_items_are_flagged_at_the_rate_asked_for(unknown: Any, named_classes: bool) -> None:
    X, y = planted(160, seed=37, noise=0.8, text_noise=0.8)
    model = Recognizer(adapter="linear", fusion="concat", unknown=unknown)
    model.fit(X, y, names=named() if named_classes else None)
    fresh, _ = planted(1000, seed=90, noise=0.8, text_noise=0.8)
    alarms = {}
    for rate in (0.05, 0.2):
        known, new = (model.recognise(arrays, false_alarm_rate=rate).unknown for arrays in (fresh, strangers(300)))
        assert known.mean() == pytest.approx(rate, abs=0.05)
        assert new.mean() > known.mean() + 0.2
        alarms[rate] = new.mean()
    assert alarms[0.05] <= alarms[0.2]
    if unknown == "auto":
        assert alarms[0.05] > 0.6
    assert np.median(model.recognise(strangers(300)).strangeness) < 0.3


@pytest.mark.parametrize("adapter", RUNGS)
def test_every_rung_has_a_detector(adapter: Any) -> None:
    X, y = planted(48, seed=38, noise=0.8, text_noise=0.8)
    model = Recognizer(adapter=adapter, fusion="concat", options=FAST, folds=2).fit(X, y, names=named())
    assert set(model.only_column_.detectors) == set(model.only_column_.heads)
    assert model.recognise(strangers(50)).unknown.mean() > model.recognise(FRESH).unknown.mean()


def test_where_no_item_can_be_held_out_nothing_is_flagged() -> None:
    X, y = planted(40, seed=39)
    model = Recognizer(adapter="linear", fusion="concat").fit(X, y, groups=y)  # each class one group
    assert model.only_column_.detectors == {}
    assert model.only_column_.calibrations == {}
    assert not model.recognise(strangers(20)).unknown.any()


# --------------------------------------------------------------------------------------------------------- more classes


def grown(adapter: Any = "linear", fusion: Any = "concat") -> tuple[Recognizer, Recognizer]:
    X, y = planted(120, seed=41, classes=5)
    old = y != "frog"  # in the middle of the alphabet
    before = Recognizer(adapter=adapter, fusion=fusion, unknown="knn", folds=3).fit(X.take(np.flatnonzero(old)), y[old])
    return before, before.add_class(X.take(np.flatnonzero(~old)), y[~old])


@pytest.mark.parametrize("adapter", ["linear", "prototypes"])
@pytest.mark.parametrize("fusion", ["concat", "mean", "single"])
def test_a_new_class_is_learned_and_old_rows_stay(adapter: Any, fusion: Any) -> None:
    before, after = grown(adapter, fusion)
    assert before.classes_.tolist() == ["bird", "fish", "newt", "swan"]
    assert after.classes_.tolist() == NAMES.tolist()
    for part, head in before.only_column_.heads.items():
        new = after.only_column_.heads[part]
        assert new.known.tolist() == [0, 1, 2, 3, 4]
        for name in ("coef", "intercept"):
            assert new.tensors[name][[0, 1, 3, 4]].tobytes() == head.tensors[name].tobytes()
        assert new.items == head.items + 24
    fresh, truth = planted(500, seed=89, classes=5)
    found, was = after.predict(fresh), before.predict(fresh)
    assert np.mean(found[truth == "frog"] == "frog") > 0.5
    known = truth != "frog"
    assert np.mean(found[known] == truth[known]) > np.mean(was[known] == truth[known]) - 0.12
    changed = known & (found != was)
    to_another = np.mean(changed & (found != "frog"))
    # An old item can be lost to the new class only; the mean of two heads, each with a new class, may shift a little.
    assert to_another <= (0.01 if fusion == "mean" else 0)
    said = after.recognise(fresh)
    assert said.sets.all() and not said.unknown.any()
    assert before.predict(fresh).tolist() == was.tolist()


def test_classes_are_added_one_after_another_and_saved(tmp_path: Any) -> None:
    _, after = grown()
    X, _ = planted(30, seed=42)
    wolves = ModalityArrays(shared={name: rows + 4 for name, rows in X.shared.items()})
    twice = after.add_class(wolves, ["wolf"] * 30)
    assert twice.classes_.tolist() == [*NAMES.tolist(), "wolf"]
    assert np.mean(twice.predict(wolves) == "wolf") > 0.9
    assert fitted_of(twice)[0].tolist() == [24] * 5 + [30]
    assert len(fitted_of(twice)[1]) == 150
    twice.save(tmp_path / "model")
    np.testing.assert_array_equal(Recognizer.load(tmp_path / "model").predict_proba(FRESH), twice.predict_proba(FRESH))


def test_a_new_class_with_one_modality_is_found_in_items_with_both() -> None:
    before, _ = grown()
    X, y = planted(120, seed=41, classes=5)
    frogs = X.take(np.flatnonzero(y == "frog")).only(("image",))
    after = before.add_class(frogs, ["frog"] * len(frogs))
    assert set(after.only_column_.heads) == {("image",), ("text",)}
    fresh, truth = planted(500, seed=88, classes=5)
    assert np.mean(after.predict(fresh.only(("image",)))[truth == "frog"] == "frog") > 0.4
    both = after.predict_proba(fresh)[:, 2]  # the text head does not know frogs, and does not rule them out
    assert both.min() > 0
    assert both[truth == "frog"].mean() > 3 * both[truth != "frog"].mean()
    single, _ = grown(fusion="single")
    other = "text" if single.only_column_.best == "image" else "image"
    with pytest.raises(LabelError, match=f"goes by {single.only_column_.best} alone: give examples of every new class"):
        single.add_class(X.take(np.flatnonzero(y == "frog")).only((other,)), ["frog"] * len(frogs))  # type: ignore[arg-type]


def test_classes_can_be_added_beside_one_known_by_its_name() -> None:
    X, y = planted(60, seed=43, classes=5)
    kept = np.flatnonzero(~np.isin(y, ["frog", "swan"]))
    model = linear().fit(X.take(kept), y[kept], names={k: v for k, v in named(5).items() if k != "frog"})
    after = model.add_class(X.take(np.flatnonzero(y == "frog")), y[y == "frog"])
    fresh, truth = planted(500, seed=87, classes=5)
    found = after.predict(fresh)
    assert np.mean(found[truth == "frog"] == "frog") > 0.3
    assert np.mean(found[truth == "swan"] == "swan") > 0.3


@pytest.mark.parametrize(
    ("options", "labels", "message"),
    [
        ({}, ["newt"] * 10, "newt known already"),
        ({}, ["frog"] * 3, "10 items but 3 labels"),
        ({}, [7] * 10, "such as 7"),
        ({}, [None] * 10, "10 of 10 labels are missing"),
        ({"adapter": "network"}, ["frog"] * 10, "not to network"),
        ({"fusion": "stack"}, ["frog"] * 10, "stack"),
        ({"fusion": "gated"}, ["frog"] * 10, "gated"),
    ],
)
def test_classes_that_cannot_be_added(options: Any, labels: Any, message: str) -> None:
    X, y = planted(40, seed=44)
    kept = np.flatnonzero(y != "frog")
    model = linear(**{"options": FAST, "folds": 2, **options}).fit(X.take(kept), y[kept])
    with pytest.raises(LabelError, match=message):
        model.add_class(X.take(np.arange(10)), labels)


def test_exemplars_of_many_items_are_chosen_by_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "_MOST_EXEMPLARS", 50)
    monkeypatch.setattr(fitting, "_EXEMPLARS", 6)
    X, y = planted(80, seed=45)
    model = linear().fit(X, y)
    assert np.bincount(fitted_of(model)[1]).tolist() == [6, 6, 6, 6]
    text = np.array(y != "newt") & (np.arange(80) < 70)
    lacking = ModalityArrays(shared=X.shared, present={"text": text})
    kept = fitted_of(linear().fit(lacking, y))[1]
    assert (np.bincount(kept, minlength=4) >= 6).all()  # also of the class that has no text


# ---------------------------------------------------------------------------------------------------- folds, seeds, doors


def test_groups_are_never_on_both_sides() -> None:
    """Copies of items with labels that say nothing: only a copy on the other side could tell."""
    rng = np.random.default_rng(46)
    rows = rng.normal(size=(40, DIM)).astype(np.float32)
    X = ModalityArrays(shared={"image": np.vstack([rows, rows])})
    y = np.tile(NAMES[rng.permutation(np.arange(40) % 4)], 2)
    groups = np.tile(np.arange(40), 2)
    told = {}
    for name, of in (("grouped", groups), ("free", None)):
        model = Recognizer(adapter="linear", unknown="knn", options=RungOptions(strengths=(1e-4,))).fit(X, y, groups=of)
        held = model.only_column_.held_out
        assert held is not None
        told[name] = np.mean(held.argmax(axis=1) == np.searchsorted(NAMES, y))
    assert told["grouped"] < 0.5
    assert told["free"] > 0.8


def test_held_out_predictions_are_those_of_probes_without_the_fold() -> None:
    X, y = planted(50, seed=47)
    X = X.only(("image",))
    model = linear(folds=5).fit(X, y)
    fold_of = data_of(X, y).fold_of
    head, held_out = model.only_column_.heads["image",], model.only_column_.held_out
    assert held_out is not None
    rows = model.only_column_.features.rows(X, ("image",), np.arange(50))
    for fold in range(5):
        out = fold_of == fold
        assert out.sum() == 10
        probe = LinearProbe(strengths=[head.numbers["strength"]]).fit(rows[~out], y[~out])
        np.testing.assert_allclose(np.exp(held_out[out]), probe.predict_proba(rows[out]), atol=0.02)


def test_the_same_seed_gives_the_same_recogniser() -> None:
    X, y = planted(60, seed=48, kinds=("image",))
    fresh = FRESH.only(("image",))
    first, second = (Recognizer(options=FAST, folds=2, random_state=5).fit(X, y, names=named()) for _ in range(2))
    for name, said in vars(first.recognise(fresh)).items():
        np.testing.assert_array_equal(getattr(second.recognise(fresh), name), said)
    seconds = {"seconds": 0.0}
    assert [{**vars(r), **seconds} for r in first.details_.rungs] == [
        {**vars(r), **seconds} for r in second.details_.rungs
    ]


X40, Y40 = planted(40, seed=49)
NARROW = ModalityArrays({"image": np.ones((40, 3))})
FLAT = ModalityArrays(shared={"image": np.ones((40, 3)), "text": np.ones((40, 3))})


@pytest.mark.parametrize(
    ("options", "given", "error", "message"),
    [
        ({"adapter": "forest"}, {}, ChiasmError, "no adapter 'forest'"),
        ({"fusion": "magic"}, {}, ChiasmError, "no fusion 'magic'"),
        ({"semi": "magic"}, {}, ChiasmError, "unlabelled items 'magic'"),
        ({"unknown": "magic"}, {}, ChiasmError, "unknown 'magic'"),
        ({"alpha": 1.0}, {}, ChiasmError, "got 1.0"),
        ({"class_weight": "heavy"}, {}, ChiasmError, "got 'heavy'"),
        ({"adapter": "zero-shot"}, {}, LabelError, "no shared space"),
        ({}, {"names": {"bird": np.ones(3)}}, ChiasmError, "width 16"),
        ({}, {"names": {"bird": np.full(16, np.nan)}}, ChiasmError, "finite"),
        ({}, {"names": {1: np.ones(16)}}, LabelError, "such as 1"),
        ({}, {"source": SourceItems(X40, ["ox"] * 40)}, LabelError, "ox"),
        ({}, {"source": SourceItems(X40, np.arange(40))}, LabelError, r"such as \[0\]"),
        ({}, {"source": SourceItems(X40, [None, *Y40[1:]])}, LabelError, "1 of 40 labels"),
        ({}, {"source": SourceItems(X40, Y40[:3])}, LabelError, "40 items but labels"),
        ({}, {"source": SourceItems(NARROW, Y40)}, ChiasmError, "source: image must be embedded"),
        ({"semi": "spreading"}, {"unlabelled": FLAT}, ChiasmError, "unlabelled items: image must be embedded"),
        ({}, {"groups": [None, *range(39)]}, LabelError, "1 of 40 groups"),
    ],
)
def test_what_cannot_be_done_is_said(options: Any, given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Recognizer(**options).fit(X40, Y40, **given)


def test_what_was_given_at_fit_must_be_given_at_predict() -> None:
    rows = np.asarray(X40.shared["image"])
    with pytest.raises(ChiasmError, match="names of classes need a shared space"):
        Recognizer().fit(ModalityArrays({"image": rows}), Y40, names=named())
    model = linear().fit(ModalityArrays({"image": rows}, shared={"image": rows}), Y40)
    with pytest.raises(ChiasmError, match="vectors in the shared space"):
        model.predict({"image": rows})
    with pytest.raises(ChiasmError, match="its own embeddings"):
        model.predict(ModalityArrays(shared={"image": rows}))
    requests: list[dict[str, Any]] = [{"level": 1.0}, {"false_alarm_rate": 0.0}]
    for wrong in requests:
        with pytest.raises(ChiasmError, match=r"must be between 0 and 1, such as 0\.9 and 0\.05; got"):
            model.recognise(ModalityArrays({"image": rows}, shared={"image": rows}), **wrong)
