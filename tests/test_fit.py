"""`fit`, `predict` and `evaluate` on collections of one's own: every kind of target, every choice, what is refused."""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_encoder import FakeEncoder
from killing import at_every_step
from PIL import Image

import chiasm
from chiasm import encoders
from chiasm.errors import ChiasmError, LabelError
from chiasm.recognition import Recognizer
from chiasm.verbs import protocols
from chiasm.verbs.fit import FitReport
from chiasm.verbs.model import load_model, model_version

MOST_STEPS_OF_A_FILE = 3
COLOURS: Mapping[str, tuple[int, int, int]] = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220)}


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean colours and letters in the place of networks: planted answers, no weights."""
    monkeypatch.setattr(encoders, "resolve", lambda *_, **__: [FakeEncoder(("image", "text"))])


def table(folder: Path, items: int, seed: int, *, bare: Sequence[int] = ()) -> Path:
    """Pictures of three colours with a caption; `bare` rows have no labels at all."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(items):
        name = list(COLOURS)[number % 3]
        bright = rng.uniform(0.5, 1.0)
        colour = np.clip(np.array(COLOURS[name]) * bright + rng.normal(0, 12, 3), 0, 255)
        Image.new("RGB", (12, 12), tuple(int(c) for c in colour)).save(folder / f"{number}.png")
        labels = ";".join([name, *(["warm"] if name == "red" else []), *(["dark"] if bright < 0.75 else [])])
        row = {"id": f"{seed}-{number}", "image": f"{number}.png", "text": f"{name} paint {'x' * int(20 * bright)}"}
        given = {"colour": name, "tags": labels, "bright": f"{bright:.4f}", "lot": str(number // 3)}
        rows.append(row | (dict.fromkeys(given, "") if number in bare else given))
    path = folder / "table.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A collection, and another one of the same kind."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "resolve", lambda *_, **__: [FakeEncoder(("image", "text"))])
        chiasm.add([table(root / "a", 60, 1, bare=range(54, 60))], to=root / "first")
        chiasm.add([table(root / "b", 30, 2)], to=root / "second")
    return root / "first", root / "second"


def fit(collection: Path, **options: Any) -> FitReport:
    """Mean colours of one class are all alike, so only copies count as near-duplicates."""
    return chiasm.fit(collection, **({"alike": 2.0} | options))


def test_classes_with_everything_that_can_be_found_out(made: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = made
    report = tmp_path / "report.json"
    fitted = fit(
        first, label="colour", out=tmp_path / "model", report=report,
        also=["learning-curve", "held-out-classes", "incremental", "random-split"],
    )  # fmt: skip
    assert fitted.classes == ("blue", "green", "red")
    assert (fitted.items, fitted.unlabelled) == (54, 6)
    assert fitted.metrics["accuracy"] > 0.9
    low, high = fitted.metrics["intervals"]["f1_macro"]
    assert low <= fitted.metrics["f1_macro"] <= high
    assert {"ece", "brier", "cross_entropy", "auc_macro", "coverage"} <= set(fitted.metrics)
    assert set(fitted.also) == {"learning-curve", "held-out-classes", "incremental", "random-split"}
    assert [point["shots"] for point in fitted.also["learning-curve"]["points"]] == [1, 2, 5, 10]
    assert json.loads(json.dumps(fitted.as_dict()))["chosen"]["rung"] == fitted.chosen["rung"]
    titles = [block.get("title") for block in json.loads(report.read_text(encoding="utf-8"))["blocks"]]
    for title in ("Confusion matrix", "Reliability", "Learning curve", "Worst mistakes", "The ladder of adapters"):
        assert title in titles

    evaluated = chiasm.evaluate(tmp_path / "model", second)
    assert evaluated.seen == 0
    assert evaluated.metrics["accuracy"] > 0.9
    again = chiasm.evaluate(tmp_path / "model", first)
    assert (again.seen, "by heads that did not see it" in again.measured) == (0, True)
    assert again.metrics["accuracy"] == fitted.metrics["accuracy"], "as fit has measured it"
    training = chiasm.evaluate(tmp_path / "model", first, on="training")
    assert training.seen == 54
    assert training.measured.startswith("training items: of 54 items, it learned from 54")

    said = chiasm.predict(tmp_path / "model", [made[1].parent / "b" / "0.png"])
    (prediction,) = said.predictions
    assert prediction.label == "red"
    assert prediction.label in prediction.set
    assert sum(prediction.probabilities.values()) == pytest.approx(1)


def test_ways_to_balance_are_compared_on_the_same_folds(
    made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = protocols.balances(Recognizer, 2)
    assert len(every) == 7
    for make in every.values():
        assert isinstance(make(), Recognizer)
    few = {name: every[name] for name in ("as it is", "class weights")}  # the networks take a minute
    monkeypatch.setattr(protocols, "balances", lambda *_: few)
    report = tmp_path / "report.md"
    fitted = fit(made[0], label="colour", out=tmp_path / "model", adapter="linear", also=["balance"], report=report)
    assert list(fitted.also["balance"]["differences"]) == ["class weights"]
    assert len(fitted.also["balance"]["f1_macro"]["as it is"]) == 3
    assert "Balance of classes and modalities" in report.read_text(encoding="utf-8")


def test_numbers(made: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = made
    fitted = fit(first, label="bright", out=tmp_path / "model", report=tmp_path / "report.html")
    assert fitted.metrics["r2"] > 0.5
    assert 0 <= fitted.metrics["coverage"] <= 1
    low, high = fitted.metrics["intervals"]["mae"]
    assert low <= fitted.metrics["mae"] <= high
    assert chiasm.evaluate(tmp_path / "model", second).metrics["r2"] > 0.5
    (prediction,) = chiasm.predict(tmp_path / "model", [second.parent / "b" / "0.png"]).predictions
    part = prediction.columns["bright"]
    assert part["low"] < part["value"] < part["high"]
    assert "Predicted against true" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_several_labels_an_item(made: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = made
    fitted = fit(first, label="tags", out=tmp_path / "model", report=tmp_path / "report.md")
    assert fitted.classes == ("blue", "dark", "green", "red", "warm")
    assert fitted.metrics["f1_micro"] > 0.8
    low, high = fitted.metrics["intervals"]["f1_micro"]
    assert low <= fitted.metrics["f1_micro"] <= high
    assert chiasm.evaluate(tmp_path / "model", second).metrics["f1_micro"] > 0.8
    (prediction,) = chiasm.predict(tmp_path / "model", [second.parent / "b" / "0.png"]).predictions
    assert {"red", "warm"} <= set(prediction.columns["tags"]["value"].split("; "))


def test_several_columns(made: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = made
    fitted = fit(first, label="colour,bright", out=tmp_path / "model", report=tmp_path / "report.html")
    assert fitted.metrics["columns"]["colour"]["accuracy"] > 0.8
    assert {"mae", "r2"} <= set(fitted.metrics["columns"]["bright"])
    assert list(fitted.chosen["columns"]) == ["colour", "bright"]
    assert [report["column"] for report in fitted.chosen["together"]] == ["colour", "bright"]
    assert set(chiasm.evaluate(tmp_path / "model", second).metrics["columns"]) == {"colour", "bright"}
    (prediction,) = chiasm.predict(tmp_path / "model", [second.parent / "b" / "0.png"]).predictions
    assert prediction.columns["colour"]["value"] == "red"
    assert prediction.label is not None
    assert re.fullmatch(r"colour: red, bright: [\d.]+", prediction.label)


def test_a_source_unlabelled_items_and_a_search(made: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = made
    trials: list[Any] = []
    fitted = fit(
        first, label="colour", out=tmp_path / "model", shots=2, source=second, semi="spreading", tune=3, sampler="random",
        adapter="linear", fusion="concat", names=False, on_trial=trials.append, report=tmp_path / "report.html",
    )  # fmt: skip
    assert fitted.items == 6
    assert "source" in fitted.chosen["source"]
    assert "spreading with 6 unlabelled items" in fitted.chosen["semi"]
    assert len(trials) == len(fitted.also["tuning"]["trials"]) == 3
    assert (tmp_path / "model.study").is_file()
    assert "Search for hyperparameters" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_target_without_labels(made: tuple[Path, Path], tmp_path: Path) -> None:
    """Pictures of the same colours in other light, whose labels are not looked at."""
    path = table(tmp_path / "a", 60, 9)
    for picture in path.parent.glob("*.png"):
        with Image.open(picture) as opened:
            pixels = np.asarray(opened).astype(float)
        Image.fromarray(np.clip(0.5 * pixels + 90, 0, 255).astype(np.uint8)).save(picture)
    target = tmp_path / "target"
    chiasm.add([path], to=target)
    images: dict[str, Any] = {"label": "colour", "modalities": ["image"], "adapter": "auto"}
    plain = fit(made[0], out=tmp_path / "plain", **images)
    fitted = fit(made[0], out=tmp_path / "model", target=target, report=tmp_path / "report.json", **images)
    assert fitted.target == str(target)
    assert plain.chosen["adaptation"] is None
    assert (fitted.chosen["adaptation"]["way"], fitted.chosen["adaptation"]["items"]) == ("same", 60)
    assert "no labels of target to measure by" in fitted.measured
    titles = [block.get("title") for block in json.loads((tmp_path / "report.json").read_text("utf-8"))["blocks"]]
    assert "Adaptation to the target" in titles
    before, after = (chiasm.evaluate(tmp_path / name, target).metrics["accuracy"] for name in ("plain", "model"))
    assert after >= before
    assert chiasm.drift(tmp_path / "model", target).modalities["image"].status == "none", "as the target is"
    with pytest.raises(ChiasmError, match="all 54 items were learned from"):
        chiasm.evaluate(tmp_path / "model", made[0])
    told = fit(made[0], out=tmp_path / "other", target=target, shares="other", **images)
    assert told.chosen["adaptation"]["way"] == "predicted"


def test_what_is_no_target(made: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = made
    chiasm.add([table(tmp_path / "a", 3, 4)], to=tmp_path / "few")
    chiasm.remove(tmp_path / "few", where="id is not null")
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "a.txt").write_text("red paint", encoding="utf-8")
    chiasm.add([tmp_path / "words"], to=tmp_path / "texts")
    (tmp_path / "link").symlink_to(first)
    for options, message in (
        ({"target": first}, "is the collection itself"),
        ({"target": tmp_path / "link"}, "is the collection itself"),
        ({"target": tmp_path / "few"}, "no embedding of image or text among its 0 items"),
        (
            {"target": tmp_path / "texts", "modalities": ["image"]},
            "no embedding of image among its 1 items",
        ),
        ({"target": tmp_path / "nothing"}, "nothing"),
        ({"target": second, "source": second}, "source: not together with a target"),
        ({"target": second, "tune": 2, "semi": "spreading"}, "semi, tune: not together with a target"),
        ({"shares": "same"}, "shares are those of a target"),
        ({"target": second, "label": "bright"}, "target: only for one column of classes"),
        ({"target": second, "label": "colour,bright"}, "target: only for one column of classes"),
    ):
        with pytest.raises(ChiasmError, match=message):
            fit(first, **({"label": "colour", "out": tmp_path / "model"} | options))
    few = fit(first, label="colour", out=tmp_path / "model", target=tmp_path / "texts")
    assert few.modalities == ("text",), "learned from what the target has"
    assert "1 items say too little" in few.chosen["adaptation"]["sentence"]


def test_a_search_leaves_what_was_said(made: tuple[Path, Path], tmp_path: Path) -> None:
    fitted = fit(
        made[0], label="colour", out=tmp_path / "model", tune=2, sampler="random", adapter="network", fusion="concat",
        class_weight="balanced", log_dir=tmp_path / "log", modalities=["image"],
    )  # fmt: skip
    assert fitted.chosen["rung"] == "network"
    assert load_model(tmp_path / "model").recognizer.class_weight == "balanced"
    assert list((tmp_path / "log").rglob("events.*"))


def test_measured_by_fitting_anew(made: tuple[Path, Path], tmp_path: Path) -> None:
    fitted = fit(made[0], label="colour", out=tmp_path / "model", adapter="prototypes", nested=True, group="lot")
    assert "outer folds" in fitted.measured
    assert fitted.metrics["items"] == 54
    assert fitted.metrics["accuracy"] > 0.9


def test_two_models_on_the_same_items(made: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = made
    for name, modalities in (("good", ["image"]), ("other", ["text"])):
        fit(first, label="colour", out=tmp_path / name, modalities=modalities, adapter="linear")
    fit(first, label="colour", out=tmp_path / "both", adapter="linear")
    result = chiasm.evaluate(tmp_path / "both", second, against=tmp_path / "both", report=tmp_path / "report.html")
    part = result.metrics["against"]["metrics"]["accuracy"]
    assert (part["difference"], part["standard_error"]) == (0, 0)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Against both" in page
    assert "0; the model was fitted with 0" in page


@pytest.mark.parametrize("label", ["colour", "bright", "tags", "colour,bright"])
def test_a_model_is_measured_on_what_its_heads_did_not_see(made: tuple[Path, Path], tmp_path: Path, label: str) -> None:
    """Of pure noise a model remembers what it learned, and knows nothing of what it did not."""
    rng = np.random.default_rng(5)
    path = table(tmp_path / "a", 36, 7)
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    order = rng.permutation(len(rows))
    for row, other in zip(rows, order, strict=True):
        row |= {name: rows[other][name] for name in ("colour", "bright", "tags")}
        row["text"] = "".join(rng.choice(list("abcdefghij"), 12))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    chiasm.add([path], to=tmp_path / "noise")
    chiasm.fit(tmp_path / "noise", label=label, out=tmp_path / "model", alike=2.0)
    folds = chiasm.evaluate(tmp_path / "model", tmp_path / "noise")
    assert folds.seen == 0
    assert folds.measured.startswith("36 items, each by heads that did not see it")
    training = chiasm.evaluate(tmp_path / "model", tmp_path / "noise", on="training", report=tmp_path / "r.md")
    assert training.seen == 36
    assert (tmp_path / "r.md").read_text(encoding="utf-8").splitlines()[2].startswith("Measured on training items")
    both = chiasm.evaluate(tmp_path / "model", made[1], on="auto")
    assert (both.seen, both.measured) == (0, "30 items, of second"), "of other content, whatever the ids"


def test_items_that_lack_what_others_have_are_known_again(tmp_path: Path) -> None:
    path = table(tmp_path / "a", 30, 1)
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows[:12]:
        row["text"] = ""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    chiasm.add([path], to=tmp_path / "collection")
    fit(tmp_path / "collection", label="colour", out=tmp_path / "model", adapter="linear")
    measured = chiasm.evaluate(tmp_path / "model", tmp_path / "collection", where="text IS NULL").measured
    assert measured.startswith("12 items, each by heads that did not see it")


def test_ids_of_another_collection_are_not_those_that_were_learned(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        path = table(tmp_path / name, 30, seed)
        path.write_text(path.read_text(encoding="utf-8").replace(f"{seed}-", "same-"), encoding="utf-8")
        chiasm.add([path], to=tmp_path / f"{name}-collection")
    fit(tmp_path / "a-collection", label="colour", out=tmp_path / "model", adapter="linear")
    measured = chiasm.evaluate(tmp_path / "model", tmp_path / "b-collection")
    assert measured.measured == "30 items, of b-collection"
    assert chiasm.drift(tmp_path / "model", tmp_path / "b-collection").items == 30
    assert chiasm.drift(tmp_path / "model", tmp_path / "a-collection").items == 0
    fit(
        tmp_path / "b-collection",
        label="colour",
        out=tmp_path / "both",
        adapter="linear",
        source=tmp_path / "a-collection",
    )
    with pytest.raises(ChiasmError, match="--on training"):
        chiasm.evaluate(tmp_path / "both", tmp_path / "a-collection")
    against = chiasm.evaluate(tmp_path / "model", tmp_path / "a-collection", against=tmp_path / "model")
    assert "by heads that did not see it" in against.measured


def test_several_sources_are_learned_from_and_named_again_to_learn_on(tmp_path: Path) -> None:
    collections = []
    for seed in (1, 2, 3):
        chiasm.add([table(tmp_path / str(seed), 30, seed)], to=tmp_path / f"collection-{seed}")
        collections.append(tmp_path / f"collection-{seed}")
    target, *others = collections
    model = tmp_path / "model"
    fit(target, label="colour", out=model, adapter="prototypes", source=others, alpha=0.5)
    for other in others:
        with pytest.raises(ChiasmError, match="--on training"):
            chiasm.evaluate(model, other)
    chiasm.labels(target, ["1-1", "1-2", "1-3"], column="colour", label="red")
    assert chiasm.learn(model, target, source=others, unseen="learn", alike=2.0).corrections == 3


def test_killed_at_any_step_fit_leaves_the_old_model_or_the_new(made: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    fit(made[0], label="colour", out=folder, adapter="prototypes", modalities=["image"])
    before = model_version(folder)

    def work() -> None:
        fit(made[0], label="colour", out=folder, adapter="prototypes", modalities=["text"], report=tmp_path / "r.md")

    def check() -> None:
        model = load_model(folder)
        is_old = model.version == before
        assert (
            tuple(model.fingerprints)
            == model.recognizer.only_column_.features.modalities
            == (("image",) if is_old else ("text",))
        )
        assert model.report["modalities"] == list(model.fingerprints)
        if not is_old:
            assert chiasm.revert(folder) == before

    steps = at_every_step(work, lambda: None, check)
    assert steps > MOST_STEPS_OF_A_FILE
    chiasm.evaluate(folder, made[0], on="training")


def test_copies_stay_on_one_side(tmp_path: Path) -> None:
    path = table(tmp_path / "a", 30, 3)
    for number in range(3, 30, 3):  # every red picture is the same one
        (tmp_path / "a" / f"{number}.png").write_bytes((tmp_path / "a" / "0.png").read_bytes())
    chiasm.add([path], to=tmp_path / "collection")
    fitted = fit(tmp_path / "collection", label="colour", out=tmp_path / "model", adapter="prototypes", names=False)
    found = re.match(r"(\d+) items are copies or near-duplicates of others", fitted.duplicates)
    assert found is not None
    assert int(found[1]) >= 10


def test_columns_and_classes_are_named_in_any_form(tmp_path: Path) -> None:
    """macOS composes accents in one way, tables mostly in the other; both look the same."""
    path = table(tmp_path / "a", 30, 1)
    text = path.read_text(encoding="utf-8").replace("colour,", "d\u00e9j\u00e0,").replace(",lot", ",\u00e9tage")
    path.write_text(text.replace(",red,", ",ros\u00e9,"), encoding="utf-8")
    made, model = tmp_path / "c", tmp_path / "m"
    chiasm.add([path], to=made)
    apart = {name: unicodedata.normalize("NFD", name) for name in ("d\u00e9j\u00e0", "\u00e9tage", "ros\u00e9")}
    assert all(name != other for name, other in apart.items())
    column, group, name = apart.values()
    fitted = fit(made, label=column, group=group, source=made, alpha=0.5, where=f"\"{column}\" <> 'x'", out=model)
    assert (fitted.label, fitted.classes) == ("d\u00e9j\u00e0", ("blue", "green", "ros\u00e9"))
    assert fit(made, label=f"{column}, bright", out=tmp_path / "both").label == "d\u00e9j\u00e0,bright"
    assert chiasm.evaluate(model, made, label=column, where=f"{group} < 4").metrics["accuracy"] > 0.5
    items = [f"1-{number}" for number in range(1, 4)]
    said = chiasm.labels(made, items, column=column, label=name)
    assert (said["label"], "new_labels" in said) == (3, False), "rosé is a class that there is"
    report = chiasm.learn(model, made, group=group, source=made, unseen="learn", alike=2.0)
    assert (report.corrections, report.classes_added) == (3, ())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"label": "shape"}, LabelError, "has no column 'shape'. Its columns: "),
        ({"label": "colour", "group": "patient"}, LabelError, "has no column 'patient'"),
        ({"label": "colour", "shots": 40}, LabelError, "40 shots a class were asked for, but blue has 18"),
        ({"label": "colour", "adapter": "svm"}, ChiasmError, "there is no adapter 'svm': take auto, zero-shot"),
        ({"label": "colour", "fusion": "sum"}, ChiasmError, "there is no fusion 'sum': take auto, single"),
        ({"label": "colour", "alpha": 1.5}, ChiasmError, "alpha is the weight of the source"),
        ({"label": "colour", "also": ["luck"]}, ChiasmError, "also takes learning-curve, .*; got 'luck'"),
        (
            {"label": "colour", "report": "report.pdf"},
            ChiasmError,
            "a report is written as .html, .md, .json; got report.pdf",
        ),
        ({"label": "colour", "report": "nowhere/r.html"}, ChiasmError, "the folder of the report .* does not exist"),
        (
            {"label": "colour", "where": "colour = 'red'"},
            LabelError,
            "column 'colour': all 18 values are red: at least 2 classes are needed",
        ),
        (
            {"label": "colour", "where": "lot = 0"},
            LabelError,
            "has its own value in 'colour': that is an id, not a class",
        ),
        (
            {"label": "colour", "where": "lot = 99"},
            LabelError,
            "no item has both a value in 'colour' and an embedding",
        ),
        ({"label": "colour", "modalities": ["audio"]}, LabelError, "not audio"),
        ({"label": "colour", "task": "number"}, LabelError, "column 'colour'"),
        ({"label": "colour", "shots": 2, "nested": True}, ChiasmError, "nested measures by folds, shots on the items"),
        ({"label": "bright", "names": False}, ChiasmError, "names: only for one column of classes, not for 'bright'"),
        ({"label": "bright", "alpha": 0.5}, ChiasmError, "alpha: only for one column of classes, not for 'bright'"),
        ({"label": "bright", "shots": 2}, ChiasmError, "shots: only for one column of classes, not for 'bright'"),
        (
            {"label": "colour,bright", "semi": "spreading"},
            ChiasmError,
            "semi: only for one column of classes, not for several",
        ),
    ],
)
def test_what_cannot_be_done_says_why(
    made: tuple[Path, Path], tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fit(made[0], out=tmp_path / "model", **options)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("role", ["source", "target"])
def test_a_domain_of_another_encoder_is_refused(
    made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    chiasm.add([table(tmp_path / "c", 12, 4)], to=tmp_path / "third")
    versions = iter(["1", "2"])
    monkeypatch.setattr(encoders, "resolve", lambda *_, **__: [FakeEncoder(("image", "text"), version=next(versions))])
    with pytest.raises(ChiasmError, match=rf"the {role} .* has image embeddings of another encoder"):
        fit(made[0], label="colour", out=tmp_path / "model", **{role: tmp_path / "third"})


def test_a_class_with_one_example_is_learned_and_stated(tmp_path: Path) -> None:
    path = table(tmp_path / "a", 31, 5)
    text = path.read_text(encoding="utf-8").splitlines()
    text[-1] = text[-1].replace(",red,", ",crimson,")
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    chiasm.add([path], to=tmp_path / "collection")
    fitted = fit(tmp_path / "collection", label="colour", out=tmp_path / "model", names=False)
    assert fitted.classes == ("blue", "crimson", "green", "red")
    assert fitted.measured.startswith("30 of 31 items")  # the only crimson one cannot be held out
    with pytest.raises(LabelError, match="crimson has 1"):
        fit(tmp_path / "collection", label="colour", out=tmp_path / "model", shots=2)


def test_an_unknown_label_of_another_collection_is_refused(made: tuple[Path, Path], tmp_path: Path) -> None:
    fit(made[0], label="tags", out=tmp_path / "model")
    path = table(tmp_path / "c", 12, 6)
    path.write_text(path.read_text(encoding="utf-8").replace("warm", "hot"), encoding="utf-8")
    chiasm.add([path], to=tmp_path / "third")
    with pytest.raises(LabelError, match="'hot'"):
        chiasm.evaluate(tmp_path / "model", tmp_path / "third")


def paints(folder: Path, values: Mapping[str, Any], *, items: int = 16) -> Path:
    """Texts about red and blue paint, with the value that stands for each in the column y."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"id": str(n), "text": f"{name} paint {'x' * (n % 5)}", "y": values[name], "part": values[name]}
        for n in range(items)
        for name in [list(values)[n % len(values)]]
    ]
    path = folder / "t.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    chiasm.add([path], to=folder / "c")
    return folder / "c"


@pytest.mark.parametrize(
    ("learned", "truth"),
    [
        ((0, 1), (0.0, 1.0)),
        ((0, 1), ("0", "1")),
        ((0.0, 1.0), ("0", "1.0")),
        ((False, True), ("false", "true")),
        (("False", "True"), (False, True)),
        (("caf\u00e9", "bar"), ("cafe\u0301", " bar ")),
    ],
)
def test_a_class_is_the_same_however_a_table_writes_it(tmp_path: Path, learned: Any, truth: Any) -> None:
    first = paints(tmp_path / "a", dict(zip(("red", "blue"), learned, strict=True)))
    other = paints(tmp_path / "b", dict(zip(("red", "blue"), truth, strict=True)))
    fit(first, label="y", out=tmp_path / "model", adapter="prototypes", source=other, alpha=0.5)
    measured = chiasm.evaluate(tmp_path / "model", other, against=tmp_path / "model", on="training")
    assert measured.metrics["accuracy"] == measured.metrics["against"]["metrics"]["accuracy"]["this"] == 1
    assert measured.unknown_classes == load_model(tmp_path / "model").report["unknown_classes"] == {}
    chiasm.labels(first, ["0"], column="y", label=str(truth[0]))
    assert chiasm.learn(tmp_path / "model", first, alike=2.0).overruled == 0, "it is no correction"


def test_classes_of_several_columns_are_the_same_however_a_table_writes_them(tmp_path: Path) -> None:
    first, other = (
        paints(tmp_path / name, values)
        for name, values in (("a", {"red": 0, "blue": 1}), ("b", {"red": "0.0", "blue": "1.0"}))
    )
    fit(first, label="y,part", out=tmp_path / "model")
    measured = chiasm.evaluate(tmp_path / "model", other, on="training")
    assert [part["accuracy"] for part in measured.metrics["columns"].values()] == [1, 1]


def test_classes_that_a_model_does_not_know_are_named(tmp_path: Path) -> None:
    first = paints(tmp_path / "a", {"red": "warm", "blue": "cold"})
    other = paints(tmp_path / "b", {"red": "Warm", "blue": "cold", "green": "fresh"}, items=15)
    fit(first, label="y", out=tmp_path / "model", adapter="prototypes")
    measured = chiasm.evaluate(
        tmp_path / "model", other, against=tmp_path / "model", report=tmp_path / "r.md", on="training"
    )
    expected = {"Warm": "5 items (is 'warm' meant?)", "fresh": "5 items"}
    assert measured.unknown_classes == measured.metrics["against"]["unknown_classes"] == expected
    assert "does not know the class 'Warm': 5 items" in (tmp_path / "r.md").read_text(encoding="utf-8")
    with_source = fit(first, label="y", out=tmp_path / "other", adapter="prototypes", source=other, alpha=0.5)
    assert with_source.unknown_classes == expected
    assert chiasm.labels(first, ["0"], column="y", label="clod")["new_labels"] == {
        "clod": "no item has it (is 'cold' meant?)"
    }
    assert "new_labels" not in chiasm.labels(first, ["0"], column="y", label="cold")
    assert "new_labels" not in chiasm.labels(first, ["0"], column="y", label="unknown")


def test_people_correct_labels_and_the_model_learns(tmp_path: Path) -> None:
    path = table(tmp_path / "a", 90, 5)
    lines = path.read_text(encoding="utf-8").splitlines()
    wrong = [f"5-{number}" for number in range(0, 30, 3)]  # red ones that the table calls blue
    path.write_text(
        "\n".join(line.replace(",red,", ",blue,") if line.split(",")[0] in wrong else line for line in lines) + "\n",
        encoding="utf-8",
    )
    chiasm.add([path], to=tmp_path / "collection")
    model = tmp_path / "model"
    fit(tmp_path / "collection", label="colour", out=model, adapter="linear", modalities=["image"], names=False)
    nothing = chiasm.learn(model, tmp_path / "collection", names=False, alike=2.0)
    assert not nothing.switched
    assert "already learned" in nothing.why
    assert chiasm.labels(tmp_path / "collection", wrong, column="colour", label="red", who="ann")["label"] == len(wrong)
    assert chiasm.feedback(tmp_path / "collection", wrong[:2], verdict="up", query="red", who="ann")["thumb"] == 2
    report = chiasm.learn(model, tmp_path / "collection", names=False, alike=2.0)
    assert report.switched, report.why
    assert (report.corrections, report.overruled) == (len(wrong), len(wrong))
    (column,) = report.columns
    assert column.new >= column.old
    chiasm.revert(model)
    assert chiasm.drift(model, tmp_path / "collection").items == 0
    with pytest.raises(ChiasmError, match="nothing to compare"):
        chiasm.drift(model, tmp_path / "collection", since=False)
    chiasm.add([table(tmp_path / "b", 90, 6)], to=tmp_path / "collection")
    found = chiasm.drift(model, tmp_path / "collection")
    assert set(found.modalities) == {"image"}
    assert found.warnings == ()
    with pytest.raises(ChiasmError, match="nosuch"):
        chiasm.labels(tmp_path / "collection", ["nosuch"], column="colour", label="red")
