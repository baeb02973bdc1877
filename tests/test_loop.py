"""The loop: what a model learns from people, on what old and new are compared, when they change places, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_encoder import FakeEncoder
from hypothesis import given
from hypothesis import strategies as st
from killing import at_every_step

from chiasm.errors import ChiasmError, LabelError
from chiasm.evaluation.predictions import Predictions
from chiasm.recognition import ModalityArrays, Recognizer
from chiasm.store.add import add_manifests
from chiasm.store.collection import Collection
from chiasm.store.feedback import UNKNOWN, FeedbackTable, Label
from chiasm.store.manifest import read_manifest
from chiasm.verbs.compare import compare_column, group_means
from chiasm.verbs.dataset import labelled_items
from chiasm.verbs.drift import collection_drift, drift_of
from chiasm.verbs.learn import LearnOptions, LearnReport, learn_again
from chiasm.verbs.measure import class_target, targets_of
from chiasm.verbs.model import (
    HeldOut,
    Model,
    load_model,
    model_version,
    reference_of,
    revert_model,
    save_model,
)
from chiasm.verbs.ranking import owner_number
from chiasm.verbs.spaces import start_of

WORDS: Mapping[str, str] = {"bird": "wing feather beak", "fish": "gill fin scales", "tree": "bark root leaves"}
FEWEST_STEPS = 10
NETWORKS = (FakeEncoder(("text",)),)


def rows(kinds: Sequence[str], *, seed: int = 0, first: int = 0) -> list[dict[str, Any]]:
    """Texts in the letters of their class, of which the fake encoder makes directions; `kind` is what is stored."""
    rng = np.random.default_rng(seed)
    found = []
    for number, kind in enumerate(kinds, start=first):
        letters = list(WORDS[kind].replace(" ", "") * 3)
        text = "".join(rng.choice(letters, size=25)) + "".join(rng.choice(list("abcdefghijklmnop"), size=6))
        found.append(
            {
                "id": f"{number:03}",
                "text": text,
                "kind": kind,
                "size": ord(kind[0]) + number / 100,
                "tags": f"{kind};thing",
            }
        )
    return found


class World:
    """A collection with wrong labels, and a model that learned from some of its items."""

    def __init__(self, folder: Path, table: list[dict[str, Any]], wrong: Mapping[str, str]) -> None:
        self.folder, self.model = folder, folder / "model"
        self.truth = {row["id"]: row["kind"] for row in table}
        self.collection = Collection.create(folder / "collection", encoder="fake")
        self.add([row | {"kind": wrong.get(row["id"], row["kind"])} for row in table])
        self.said = FeedbackTable(self.collection)

    def add(self, table: list[dict[str, Any]]) -> None:
        path = self.folder / "table.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in table), encoding="utf-8")
        add_manifests(self.collection, [read_manifest(path)], NETWORKS)

    def fit(self, ids: Sequence[str] | None = None, **options: Any) -> Model:
        data = labelled_items(self.collection, NETWORKS, self.space, ["kind"], alike=2)
        chosen = np.array([row for row, item in enumerate(data.ids) if ids is None or item in ids])
        arrays = data.arrays.take(chosen)
        target = class_target(data.values["kind"], column="kind").take(chosen)
        predictor = Recognizer(adapter="linear", **options).fit(arrays, target, groups=data.groups[chosen])
        seen = frozenset(data.ids[row] for row in chosen)
        model = Model(
            predictor, "fake", "kind", dict(data.fingerprints), seen, {"items": len(chosen)}, reference_of(arrays),
            HeldOut(others=frozenset(data.take(chosen).contents)),
            collected=np.array([owner_number(content) for content in data.contents]),
        )  # fmt: skip
        save_model(self.model, model)
        return model

    @property
    def space(self) -> Any:
        return start_of(self.collection, NETWORKS)

    def correct(self, labels: Mapping[str, str], who: str = "anna") -> None:
        self.said.add([Label(item, "kind", label) for item, label in labels.items()], who=who)

    def learn(self, **options: Any) -> LearnReport:
        chosen = LearnOptions(**({"alike": 2, "names": False} | options))
        return learn_again(self.model, self.collection, NETWORKS, self.space, chosen)


KINDS = ["bird", "fish"] * 50
WRONG = {f"{number:03}": ("fish" if KINDS[number] == "bird" else "bird") for number in range(1, 20, 3)}
TRAINED = [f"{number:03}" for number in range(20)]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, rows(KINDS), WRONG)


def test_killed_at_any_step_learn_leaves_the_old_model_or_the_new(world: World) -> None:
    world.fit(TRAINED)
    before = model_version(world.model)
    world.correct({item: world.truth[item] for item in WRONG})

    def check() -> None:
        model = load_model(world.model)
        is_old = model.version == before
        assert ("corrections" in model.report) is not is_old
        assert (not model.left_out.contents) is is_old, "of one version"
        if not is_old:
            assert revert_model(world.model) == before

    assert at_every_step(world.learn, lambda: None, check) > FEWEST_STEPS
    assert load_model(world.model).version == before


# ------------------------------------------------------------------------------------------------------- held-out items


def test_corrections_mend_the_model_and_it_is_judged_on_items_that_neither_saw(world: World) -> None:
    old = world.fit(TRAINED)
    version = model_version(world.model)
    world.correct({item: world.truth[item] for item in WRONG})
    report = world.learn()
    assert (report.how, report.judged, report.items) == ("held-out", 80, 20)
    assert (report.corrections, report.overruled, report.left_out) == (len(WRONG), len(WRONG), 0)
    assert report.switched
    (column,) = report.columns
    assert column.new > column.old
    assert column.difference == pytest.approx(column.new - column.old)
    assert column.allowed == pytest.approx(min(column.standard_error, 0.02))

    # The numbers, again, from the two models on disk.
    new, now = load_model(world.model), model_version(world.model)
    assert now == report.version != version
    data = labelled_items(world.collection, NETWORKS, world.space, ["kind"], alike=2)
    unseen = np.array([row for row, item in enumerate(data.ids) if item not in TRAINED])
    for model, score in ((old, column.old), (new, column.new)):
        right = model.recognizer.predict(data.arrays.take(unseen)) == data.labels[unseen]
        assert score == pytest.approx(right.mean())
    assert new.trained_on == old.trained_on
    assert new.report["corrections"] == {"kind": {item: world.truth[item] for item in WRONG}}
    assert new.report["metrics"] == column.new_metrics
    assert json.loads(json.dumps(report.as_dict()))["columns"][0]["column"] == "kind"
    assert revert_model(world.model) == version


def test_what_was_learned_is_no_news(world: World) -> None:
    world.fit(TRAINED)
    assert world.learn().why == "the model has already learned all corrections"
    world.correct({item: world.truth[item] for item in WRONG})
    first = world.learn()
    again = world.learn()
    assert (again.switched, again.how, again.columns, again.version) == (False, "nothing", (), first.version)
    world.said.delete(who="anna")  # then what the collection says counts again
    assert world.learn(switch=False).how == "held-out"


def test_a_worse_model_is_refused(world: World) -> None:
    world.fit([item for item in TRAINED if item not in WRONG] + [f"{number:03}" for number in range(20, 26)])
    version = model_version(world.model)
    unwise = [f"{number:03}" for number in (0, 2, 3, 5, 6, 8, 9, 11, 12, 20, 21, 22, 23)]
    world.correct({item: "fish" if world.truth[item] == "bird" else "bird" for item in unwise})
    report = world.learn()
    assert not report.switched
    assert report.columns[0].is_worse
    assert "worse by more than the 0.02 that are allowed (one standard error, at most 2%)" in report.why
    assert report.version == version == model_version(world.model)


def test_a_tie_does_not_switch_and_its_corrections_wait(world: World) -> None:
    world.fit([f"{number:03}" for number in range(20, 60)])  # none of them labelled wrong
    version = model_version(world.model)
    world.correct({"070": world.truth["070"]})  # right already, and not yet learned from
    report = world.learn()
    assert (report.corrections, report.overruled) == (1, 0)
    assert (report.items, report.judged) == (41, 59)  # it is learned from, so not judged
    assert abs(report.columns[0].difference) <= report.columns[0].standard_error
    assert not report.switched
    assert "no better yet" in report.why
    assert report.version == version == model_version(world.model)
    world.correct({"071": world.truth["071"]})
    assert world.learn().corrections == 2


def test_a_dry_run_does_not_switch(world: World) -> None:
    world.fit(TRAINED)
    version = model_version(world.model)
    world.correct({item: world.truth[item] for item in WRONG})
    report = world.learn(switch=False)
    assert (report.columns[0].is_better, report.switched) == (True, False)
    assert report.version == version == model_version(world.model)


@pytest.mark.parametrize(
    ("difference", "error", "verdict"),
    [
        (0.0, 0.0, "no better"),
        (0.009, 0.01, "no better"),
        (0.011, 0.01, "better by"),
        (-0.005, 0.01, "no better"),
        (-0.011, 0.01, "worse"),
        (-0.019, 0.05, "no better"),
        (-0.021, 0.05, "worse"),
    ],
)
def test_the_rule(difference: float, error: float, verdict: str) -> None:
    noise = np.random.default_rng(0).uniform(-1, 1, size=20)
    noise = (noise - noise.mean()) / noise.std(ddof=1) * error * np.sqrt(20)
    ids = tuple(str(number) for number in range(20))
    old = Predictions("number", ids, ({},) * 20, np.arange(20), (), np.zeros(20), np.ones(20))  # off by 1, all of them
    compared = compare_column("kind", old, replace(old, predicted=1.0 - noise - difference))
    assert compared.standard_error == pytest.approx(error)
    assert compared.verdict().startswith(f"kind: {verdict}")
    assert (compared.is_better, compared.is_worse) == (verdict == "better by", verdict == "worse")


def test_copies_of_what_was_learned_from_are_not_judged(world: World) -> None:
    world.add([row | {"id": f"copy {row['id']}"} for row in rows(KINDS)[:20]])  # the same texts as those trained on
    world.fit(TRAINED)
    world.correct({item: world.truth[item] for item in WRONG})
    assert world.learn(switch=False).judged == 80


# ------------------------------------------------------------------------------------------------------------- folds


def test_without_unseen_items_both_sides_are_fitted_in_folds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.fit()
    world.correct({item: world.truth[item] for item in WRONG})
    fitted: list[list[str]] = []
    original = Recognizer.fit

    def recorded(self: Recognizer, X: Any, y: Any, *args: Any, **options: Any) -> Recognizer:
        (target,) = y
        fitted.append(target.y.tolist())
        return original(self, X, y, *args, **options)

    monkeypatch.setattr(Recognizer, "fit", recorded)
    report = world.learn()
    assert (report.how, report.judged, report.items) == ("folds", 100, 100)
    new, old = fitted
    assert new == KINDS
    assert old == [WRONG.get(f"{number:03}", kind) for number, kind in enumerate(KINDS)]
    assert report.switched is report.columns[0].is_better
    assert report.columns[0].new >= report.columns[0].old


def test_the_next_round_starts_from_the_labels_that_the_model_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {f"{number:03}": "fish" if KINDS[number] == "bird" else "bird" for number in range(0, 100, 3)}
    world = World(tmp_path, rows(KINDS), wrong)
    world.fit()
    world.correct({item: world.truth[item] for item in wrong})
    assert world.learn().switched
    world.correct({"050": UNKNOWN})
    fitted: list[list[str]] = []
    original = Recognizer.fit

    def recorded(self: Recognizer, X: Any, y: Any, *args: Any, **options: Any) -> Recognizer:
        (target,) = y
        fitted.append(target.y.tolist())
        return original(self, X, y, *args, **options)

    monkeypatch.setattr(Recognizer, "fit", recorded)
    report = world.learn()
    new, old = fitted
    assert old == KINDS  # with what people said last time
    assert new == KINDS[:50] + KINDS[51:]
    assert (report.left_out, report.items, report.judged) == (1, 99, 99)


def test_few_unseen_items_are_learned_from_unless_said_otherwise(world: World) -> None:
    world.fit([f"{number:03}" for number in range(80)])
    world.correct({item: world.truth[item] for item in WRONG})
    assert (r := world.learn(switch=False)).how == "folds"
    assert r.items == 100
    assert (r := world.learn(switch=False, unseen="compare")).how == "held-out"
    assert (r.items, r.judged) == (80, 20)
    world.fit(TRAINED)
    assert (r := world.learn(switch=False, unseen="learn")).how == "folds"
    assert r.items == 100


# ------------------------------------------------------------------------------------------------------- new classes


def test_a_new_class_waits_until_it_has_examples(tmp_path: Path) -> None:
    table = rows(["bird", "fish"] * 40 + ["tree"] * 4)
    world = World(tmp_path, table, {f"{number:03}": "bird" for number in range(80, 84)})
    world.fit([f"{number:03}" for number in (*range(20), *range(80, 84))])
    world.correct({"080": "tree", "081": "tree"})
    report = world.learn()
    assert (report.waiting, report.classes_added, report.items) == ({"tree": 1}, (), 22)  # no bird, and no tree yet
    left = {"080", "081"} & load_model(world.model).trained_on
    assert bool(left) is not report.switched, "out of what is learned from, unless the old model stays"
    world.correct({"082": "tree"})
    report = world.learn()
    assert (report.waiting, report.classes_added, report.items) == ({}, ("tree",), 24)
    model = load_model(world.model)
    assert {"080", "081", "082"} <= model.trained_on
    predictor = model.recognizer
    assert isinstance(predictor, Recognizer)
    assert predictor.classes_.tolist() == ["bird", "fish", "tree"]


def test_a_class_that_is_corrected_away_is_gone(tmp_path: Path) -> None:
    world = World(tmp_path, rows(["bird", "fish"] * 30), {"002": "moth", "004": "moth"})
    world.fit()
    world.correct({"002": "bird", "004": "bird"})
    report = world.learn()
    assert report.switched
    assert report.classes_gone == ("moth",)


def test_unknown_is_a_class_where_the_column_has_it(tmp_path: Path) -> None:
    world = World(tmp_path, rows(["bird", "fish"] * 30), {f"{number:03}": UNKNOWN for number in range(10)})
    world.fit()
    world.correct({"050": UNKNOWN})
    report = world.learn(switch=False)
    assert (report.left_out, report.corrections, report.items) == (0, 1, 60)


def test_people_who_disagree_and_items_that_are_gone(world: World) -> None:
    world.fit(TRAINED)
    world.correct({"000": "fish", "001": "fish"}, who="anna")
    world.correct({"000": "bird"}, who="bo")
    world.correct({"000": "bird"}, who="cy")
    world.collection.remove(["001"])
    report = world.learn(switch=False)
    assert (report.corrections, report.overruled, report.items) == (1, 0, 19)


# ---------------------------------------------------------------------------------------------------- other columns


def test_numbers_several_labels_and_columns(tmp_path: Path) -> None:
    world = World(tmp_path, rows(KINDS[:40]), WRONG)
    for label, value in (("size", "9"), ("tags", "fish;wet"), ("kind, size", "")):
        columns = [part.strip() for part in label.split(",")]
        data = labelled_items(world.collection, NETWORKS, world.space, columns, alike=2)
        predictor = Recognizer().fit(data.arrays, targets_of(data, "auto"), groups=data.groups)
        model = Model(predictor, "fake", label, dict(data.fingerprints), frozenset(data.ids), {})
        save_model(world.model, model)
        if value:
            items = [f"{number:03}" for number in range(1, 20, 2)]
            world.said.add([Label(item, label, value) for item in items], who="anna")
        else:
            world.correct({item: world.truth[item] for item in WRONG})
        report = world.learn()
        assert [column.column for column in report.columns] == columns
        assert (report.how, report.items, report.judged) == ("folds", 40, 40)
        assert report.overruled > 0
        is_better = label == "tags" or any(column.is_better for column in report.columns)  # a tag that is new is enough
        assert report.switched == (is_better and not any(column.is_worse for column in report.columns))
        expected = {"size": ["minus absolute error"], "tags": ["share of labels right"]}
        assert [c.score for c in report.columns] == expected.get(label, ["accuracy", "minus absolute error"])
        if label == "tags":
            assert report.classes_added == ("wet",)
        assert json.dumps(report.as_dict())


# ------------------------------------------------------------------------------------------------------------ refused


def test_what_is_refused(world: World) -> None:
    with pytest.raises(ChiasmError, match="is not a model"):
        world.learn()
    model = world.fit()
    with pytest.raises(ChiasmError, match="unseen must be one of auto, compare, learn; got 'ask'"):
        world.learn(unseen="ask")
    world.correct({"000": "fish"})
    with pytest.raises(
        LabelError, match="there are 0 labelled items, not counting copies of others, that the model has not"
    ):
        world.learn(unseen="compare")
    save_model(world.model, replace(model, fingerprints={"text": "another"}))
    with pytest.raises(ChiasmError, match="fitted on text embeddings of another encoder"):
        world.learn()


def test_a_model_with_a_source_needs_it_again(world: World) -> None:
    model = world.fit()
    column = model.recognizer.only_column_
    details = replace(column.details, source="The source is used with weight 0.2, as asked.", alpha=0.2)
    model.recognizer.columns_ = {"kind": replace(column, details=details)}
    save_model(world.model, model)
    world.correct({"000": "fish"})
    with pytest.raises(
        ChiasmError, match="the model was fitted with a source, another collection that it learned from"
    ):
        world.learn()


def test_a_model_that_was_replaced_meanwhile_is_not_replaced(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.fit(TRAINED)
    world.correct({item: world.truth[item] for item in WRONG})
    original = Recognizer.fit

    def slow(self: Recognizer, *args: Any, **options: Any) -> Recognizer:
        monkeypatch.undo()
        world.fit(TRAINED[:16])
        return original(self, *args, **options)

    monkeypatch.setattr(Recognizer, "fit", slow)
    with pytest.raises(ChiasmError, match="was replaced by somebody else meanwhile"):
        world.learn()
    assert len(load_model(world.model).trained_on) == 16


# -------------------------------------------------------------------------------------------------------------- drift


def test_drift_of_what_came_in(world: World) -> None:
    model = world.fit([f"{number:03}" for number in range(50)])
    same = collection_drift(model, world.collection, NETWORKS, world.space, since=False)
    assert same.modalities["text"].incoming == 50
    assert same.warnings == ()
    untouched = collection_drift(model, world.collection, NETWORKS, world.space)
    assert (untouched.modalities, untouched.too_few, untouched.warnings) == ({}, {"text": 0}, ())
    world.add(rows(["tree"] * 60, first=500))
    changed = collection_drift(model, world.collection, NETWORKS, world.space, where="id >= '500'")
    assert changed.modalities["text"].status == "strong"
    (warning,) = changed.warnings
    assert "text embeddings differ strongly" in warning
    assert json.dumps(changed.as_dict())
    since = collection_drift(model, world.collection, NETWORKS, world.space)
    assert since.modalities["text"].incoming == since.items == 60, "what was there before is no news"
    assert "unlike" in since.sentence
    few = collection_drift(model, world.collection, NETWORKS, world.space, where="id >= '550'")
    assert (few.modalities, few.too_few, few.warnings) == ({}, {"text": 10}, ())
    assert "10 new items are too few" in few.sentence
    with pytest.raises(ChiasmError, match="nothing to compare"):
        collection_drift(model, world.collection, NETWORKS, world.space, since=False, where="id < '010'")
    with pytest.raises(ChiasmError, match="keeps no embeddings to compare with: fit it again"):
        drift_of(replace(model, reference={}), ModalityArrays({"text": np.ones((30, 12))}))


def test_after_learning_the_reference_is_of_what_was_learned_from(world: World) -> None:
    world.fit(TRAINED)
    world.correct({item: world.truth[item] for item in [*WRONG, "050"]})
    assert world.learn().switched
    assert len(load_model(world.model).reference["text"]) == 21


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-1, 1)), min_size=2, max_size=20))
def test_scores_by_group_the_slow_way(given_scores: list[tuple[int, float]]) -> None:
    groups = np.array([group for group, _ in given_scores])
    score = np.array([value for _, value in given_scores])
    found = group_means(score, groups)
    expected = [np.mean([v for g, v in given_scores if g == group]) for group in sorted(set(groups.tolist()))]
    np.testing.assert_allclose(found, expected, atol=1e-12)
