"""The recogniser treats every item by what it has, and a saved one is the same one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modality_parts import only, without
from safetensors.numpy import load_file, save_file
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError

from chiasm.errors import ChiasmError, LabelError
from chiasm.files import write_whole
from chiasm.recognition import ModalityArrays, Recognizer, RungOptions, storage
from chiasm.recognition.linear_probe import LinearProbe
from chiasm.recognition.networks import NetworkOptions
from chiasm.saved import LARGEST_OBJECT
from chiasm.training import Training
from chiasm.types import Modality

NAMES = np.array(["bird", "fish", "frog", "newt"])
DIMS: dict[Modality, int] = {"image": 30, "text": 12, "audio": 7}
CENTRES = {name: np.random.default_rng(number).normal(size=(4, dim)) for number, (name, dim) in enumerate(DIMS.items())}
NOISE = {"image": 1.5, "text": 1.2, "audio": 1.6}


def planted(
    items: int, seed: int, modalities: tuple[Modality, ...] = ("image", "text")
) -> tuple[ModalityArrays, np.ndarray]:
    """Items of four classes; each modality tells of the class on its own, in its own scale and with its own noise."""
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.arange(items) % 4)
    vectors = {
        name: (10.0**i * (CENTRES[name][codes] + NOISE[name] * rng.normal(size=(items, DIMS[name])) + 2)).astype(
            np.float32
        )
        for i, name in enumerate(modalities)
    }
    return ModalityArrays(vectors), NAMES[codes]


def probes(**options: Any) -> Recognizer:
    """One linear probe for each set of modalities, and no more."""
    return Recognizer(**{"adapter": "linear", "fusion": "concat", "unknown": None, "folds": 3, **options})


def uncalibrated(recognizer: Recognizer, arrays: ModalityArrays | dict[Modality, np.ndarray]) -> np.ndarray:
    """Probabilities as the heads give them."""
    arrays = arrays if isinstance(arrays, ModalityArrays) else ModalityArrays(arrays)
    probabilities = np.zeros((len(arrays), len(recognizer.classes_)))
    for part, rows in arrays.by_subset(arrays.modalities):
        probabilities[rows] = np.exp(recognizer.only_column_.outputs(arrays, part, rows))
    return probabilities


def strengths(recognizer: Recognizer) -> dict[str, float]:
    return {part: numbers["strength"] for part, numbers in recognizer.details_.numbers.items()}


FRESH, TRUTH = planted(400, seed=99)


def test_both_modalities_are_better_than_either() -> None:
    X, y = planted(60, seed=1)
    recognizer = probes().fit(X, y)
    image, text, both = (
        recognizer.score(only(FRESH, *names), TRUTH) for names in (("image",), ("text",), ("image", "text"))
    )
    assert both > max(image, text) + 0.02
    assert min(image, text) > 0.5
    assert set(strengths(recognizer)) == {"image", "text", "image+text"}


def test_a_missing_modality_gives_the_model_of_the_rest() -> None:
    """At fit as at predict: items with image and text teach the image probe, and items with images only use it."""
    X, y = planted(80, seed=2)
    recognizer = probes().fit(without(X, {"text": np.arange(6)}), y)
    images_only = probes().fit(only(X, "image"), y)
    np.testing.assert_allclose(
        recognizer.predict_proba(only(FRESH, "image")), images_only.predict_proba(only(FRESH, "image")), rtol=1e-5
    )
    both = probes().fit(X.take(np.arange(6, 80)), y[6:])
    text_only = probes().fit(only(X.take(np.arange(6, 80)), "text"), y[6:])
    mixed = without(FRESH, {"text": np.arange(0, 100), "image": np.arange(100, 200)})
    p = recognizer.predict_proba(mixed)
    np.testing.assert_allclose(p[:100], images_only.predict_proba(only(FRESH, "image"))[:100], rtol=1e-5)
    # Calibration goes by the folds of all items, which differ: the heads are the same.
    raw = uncalibrated(recognizer, mixed)
    np.testing.assert_allclose(
        raw[100:200], uncalibrated(text_only, only(FRESH, "text"))[100:200], rtol=2e-3, atol=1e-5
    )
    assert np.mean(p[200:].argmax(axis=1) == both.predict_proba(FRESH)[200:].argmax(axis=1)) > 0.95
    assert recognizer.predict(mixed).tolist() == recognizer.classes_[p.argmax(axis=1)].tolist()


def test_the_joint_probe_is_a_linear_probe_of_normalised_embeddings_side_by_side() -> None:
    X, y = planted(50, seed=3)
    parts: list[np.ndarray] = []
    fresh: list[np.ndarray] = []
    for name in ("image", "text"):
        mean = X.vectors[name].mean(axis=0, dtype=np.float64).astype(np.float32)
        for rows, out in ((X.vectors[name], parts), (FRESH.vectors[name], fresh)):
            out.append(np.array([(row - mean) / np.linalg.norm(row - mean) for row in rows], dtype=np.float32))
    by_hand = LinearProbe().fit(np.hstack(parts) / np.sqrt(2), y)  # of unit length in all
    recognizer = probes(folds=5).fit(X, y)
    np.testing.assert_allclose(
        uncalibrated(recognizer, FRESH), by_hand.predict_proba(np.hstack(fresh) / np.sqrt(2)), rtol=2e-3, atol=1e-5
    )
    assert strengths(recognizer)["image+text"] == pytest.approx(by_hand.strength_)


def test_scale_and_offset_of_a_modality_do_not_matter() -> None:
    X, y = planted(50, seed=4)
    moved = ModalityArrays({"image": 1000 * X.vectors["image"] + 5, "text": X.vectors["text"]})
    fresh = ModalityArrays({"image": 1000 * FRESH.vectors["image"] + 5, "text": FRESH.vectors["text"]})
    np.testing.assert_allclose(
        probes().fit(X, y).predict_proba(FRESH), probes().fit(moved, y).predict_proba(fresh), atol=5e-3
    )


def test_three_modalities_make_seven_probes() -> None:
    X, y = planted(60, seed=5, modalities=("image", "text", "audio"))
    recognizer = probes().fit(X, y)
    assert list(strengths(recognizer)) == [
        "image", "text", "audio", "image+text", "image+audio", "text+audio", "image+text+audio",
    ]  # fmt: skip
    assert recognizer.only_column_.heads["image", "audio"].tensors["coef"].shape == (4, 37)


def test_too_few_joint_items_leave_it_to_the_probes_of_the_parts() -> None:
    X, y = planted(80, seed=6)
    images, texts = np.arange(0, 36), np.arange(36, 72)  # the last eight have both
    recognizer = probes().fit(without(X, {"text": images, "image": texts}), y)
    assert list(strengths(recognizer)) == ["image", "text"]
    image, text = (uncalibrated(recognizer, only(FRESH, name)) for name in ("image", "text"))
    n = 44
    by_hand = np.sqrt((n * image + 1 / 4) / (n + 1) * (n * text + 1 / 4) / (n + 1))
    by_hand /= by_hand.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(recognizer.predict_proba(FRESH), by_hand, rtol=1e-6)
    assert recognizer.score(FRESH, TRUTH) > max(
        recognizer.score(only(FRESH, "image"), TRUTH), recognizer.score(only(FRESH, "text"), TRUTH)
    )


def test_the_largest_sets_within_what_an_item_has_are_put_together() -> None:
    modalities: tuple[Modality, ...] = ("image", "text", "audio")
    X, y = planted(90, seed=7, modalities=modalities)
    # Audio comes with few images or texts: image+text has a probe of its own, no set with audio has.
    X = without(X, {"audio": np.arange(0, 45), "image": np.arange(50, 90), "text": np.arange(50, 90)})
    recognizer = probes(folds=5).fit(X, y)
    assert list(strengths(recognizer)) == ["image", "text", "audio", "image+text"]
    fresh, truth = planted(300, seed=8, modalities=modalities)
    pair, audio = (uncalibrated(recognizer, only(fresh, *names)) for names in (("image", "text"), ("audio",)))
    by_hand = np.sqrt((50 * pair + 1 / 4) / 51 * (45 * audio + 1 / 4) / 46)
    np.testing.assert_allclose(recognizer.predict_proba(fresh), by_hand / by_hand.sum(axis=1, keepdims=True), rtol=1e-6)
    assert recognizer.score(fresh, truth) >= recognizer.score(only(fresh, "image", "text"), truth)


def test_a_class_that_one_modality_never_saw_is_left_to_the_others() -> None:
    X, y = planted(80, seed=9)
    recognizer = probes().fit(without(X, {"text": np.flatnonzero(y == "newt")}), y)
    assert recognizer.classes_.tolist() == NAMES.tolist()
    assert list(strengths(recognizer)) == ["image", "text"]
    assert recognizer.predict_proba(only(FRESH, "text"))[:, 3].tolist() == [0] * 400
    newts = recognizer.predict(FRESH)[TRUTH == "newt"]
    images = recognizer.predict(only(FRESH, "image"))[TRUTH == "newt"]
    assert np.mean(newts == "newt") > 0.5 * np.mean(images == "newt")


def test_a_modality_of_one_class_is_not_learned_from() -> None:
    X, y = planted(60, seed=10)
    recognizer = probes().fit(without(X, {"text": np.flatnonzero(y != "newt")}), y)
    assert list(strengths(recognizer)) == ["image"]
    with pytest.raises(LabelError, match=r"400 of 400 items lack any of the modalities fitted on \(image\)"):
        recognizer.predict(only(FRESH, "text"))
    np.testing.assert_array_equal(recognizer.predict(FRESH), recognizer.predict(only(FRESH, "image")))


def test_two_classes_and_labels_that_are_numbers() -> None:
    X, y = planted(60, seed=11)
    animals = np.isin(y, ["bird", "fish"]).astype(int) + 7
    recognizer = probes().fit(X, animals)
    p = recognizer.predict_proba(FRESH)
    assert p.shape == (400, 2)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert recognizer.score(FRESH, np.isin(TRUTH, ["bird", "fish"]).astype(int) + 7) > 0.7
    assert set(recognizer.predict(FRESH).tolist()) == {7, 8}


def test_a_class_with_one_example_is_learned() -> None:
    X, y = planted(41, seed=12)
    keep = np.r_[np.flatnonzero(y != "newt"), np.flatnonzero(y == "newt")[:1]]
    recognizer = probes().fit(X.take(keep), y[keep])
    assert recognizer.classes_.tolist() == NAMES.tolist()
    assert recognizer.predict(X.take(keep[-1:])).tolist() == ["newt"]


def test_weights_of_classes_move_what_is_predicted() -> None:
    X, y = planted(200, seed=13)
    keep = np.flatnonzero((y != "newt") | (np.arange(200) < 40))
    shares = [
        np.mean(probes(class_weight=weight).fit(X.take(keep), y[keep]).predict(FRESH) == "newt")
        for weight in (None, "balanced", {"newt": 50.0})
    ]
    assert shares[0] < shares[1] < shares[2]


def test_it_follows_scikit_learns_conventions() -> None:
    recognizer = Recognizer(folds=3)
    assert is_classifier(recognizer)
    assert clone(recognizer).get_params() == {
        "adapter": "auto",
        "fusion": "auto",
        "alpha": "auto",
        "shares": "auto",
        "semi": None,
        "unknown": "auto",
        "class_weight": None,
        "threshold": "f1",
        "folds": 3,
        "options": None,
        "random_state": 0,
    }
    assert recognizer.set_params(random_state=2).random_state == 2
    with pytest.raises(ValueError, match=r"Recognizer has no parameter 'fold'; it has adapter, fusion, .*random_state"):
        recognizer.set_params(fold=2)
    with pytest.raises(NotFittedError, match="call fit, or load a saved one"):
        recognizer.predict(FRESH)
    with pytest.raises(NotFittedError):
        recognizer.save("nowhere")


def test_no_items_give_no_predictions() -> None:
    recognizer = probes().fit(*planted(40, seed=14))
    assert recognizer.predict_proba(FRESH.take(np.arange(0))).shape == (0, 4)


def test_items_without_any_modality_are_named() -> None:
    X, y = planted(40, seed=15)
    bare = without(X, {"image": np.array([3, 17]), "text": np.array([3, 17, 20])})
    with pytest.raises(LabelError, match=r"2 of 40 items lack any modality: items 3, 17\. Leave them out"):
        probes().fit(bare, y)
    recognizer = probes().fit(X, y)
    with pytest.raises(
        LabelError, match=r"2 of 40 items lack any of the modalities fitted on \(image, text\): items 3, 17"
    ):
        recognizer.predict(bare)
    every = np.arange(40)
    with pytest.raises(LabelError, match=r"40 of 40 items lack any modality: items 0, 1, .*, 9 and 30 more"):
        probes().fit(without(X, {"image": every, "text": every}), y)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["frog"] * 40, "all 40 labels are frog: at least 2 classes are needed"),
        (["frog", None] * 20, "20 of 40 labels are missing"),
        (np.array([1.0, np.nan] * 20), "20 of 40 labels are missing"),
        (["frog", "newt"], "there are 40 items but 2 labels"),
        (
            np.array(["2020-01-01", "2020-01-02"] * 20, dtype="datetime64[D]"),
            "labels must be text, numbers or booleans",
        ),
    ],
)
def test_labels_that_cannot_be_learned_from_are_refused(labels: Any, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        probes().fit(planted(40, seed=16)[0], labels)


def test_labels_that_only_differ_between_modalities_are_refused() -> None:
    X, _ = planted(40, seed=17)
    X = without(X, {"image": np.arange(20), "text": np.arange(20, 40)})
    with pytest.raises(LabelError, match="no modality has items of two classes"):
        probes().fit(X, ["frog"] * 20 + ["newt"] * 20)
    with pytest.raises(LabelError, match="40 rows but 3 groups"):
        probes().fit(X, ["frog", "newt"] * 20, groups=[1, 2, 3])


def test_wrong_width_says_expected_and_got() -> None:
    recognizer = probes().fit(*planted(40, seed=18))
    with pytest.raises(ChiasmError, match="text: expected embeddings of width 12, as in fit; got 10"):
        recognizer.predict({"image": FRESH.vectors["image"], "text": FRESH.vectors["text"][:, :10]})


ROWS = np.zeros((3, 2), dtype=np.float32)
BROKEN = np.array([[0, 1], [np.nan, 0], [np.inf, 1]])


@pytest.mark.parametrize(
    ("vectors", "present", "message"),
    [
        ({}, {}, r"by modality \(image, text, audio, video\); got none"),
        ({"img": ROWS}, {}, r"got \['img'\]"),
        ({"image": ROWS}, {"txt": np.ones(3, bool)}, r"got \['txt'\]"),
        ({"image": np.zeros(3)}, {}, r"image: embeddings must be a matrix of floats; got float64 \(3,\)"),
        ({"image": np.zeros((3, 2), int)}, {}, r"matrix of floats; got int64"),
        (
            {"image": ROWS, "text": ROWS[:2]},
            {},
            r"a row for every item, missing or not; got {'image': 3, 'text': 2} rows",
        ),
        ({"image": ROWS}, {"image": np.ones(2, bool)}, r"the mask must be 3 booleans; got bool \(2,\)"),
        ({"image": ROWS}, {"image": np.ones(3)}, r"the mask must be 3 booleans; got float64"),
        ({"image": BROKEN}, {}, "image: 2 of 3 embeddings hold NaN or infinite values, first of item 1"),
        ({"image": BROKEN}, {"image": np.array([True, False, True])}, "1 of 2 embeddings hold NaN .* first of item 2"),
    ],
)
def test_embeddings_that_are_not_usable_are_refused(vectors: Any, present: Any, message: str) -> None:
    with pytest.raises(ChiasmError, match=message):
        ModalityArrays(vectors, present)


@pytest.fixture(scope="module")
def fitted() -> Recognizer:
    modalities: tuple[Modality, ...] = ("image", "text", "audio")
    X, y = planted(60, seed=20, modalities=modalities)
    weights = {"newt": 2.0}
    return probes(class_weight=weights).fit(without(X, {"audio": np.arange(0, 40)}), y)


@pytest.mark.parametrize("labels", [NAMES, np.arange(4), np.arange(4) * 2.0, np.array([True, False, True, False])])
def test_saved_and_loaded_is_the_same(tmp_path: Path, labels: np.ndarray) -> None:
    X, y = planted(60, seed=21)
    values = labels[np.searchsorted(NAMES, y)]
    before = probes(class_weight={labels[0].item(): 2.0}, random_state=3, unknown="knn").fit(X, values)
    before.save(tmp_path / "new" / "model")
    after = Recognizer.load(tmp_path / "new" / "model")
    assert_same(before, after, without(FRESH, {"text": np.arange(0, 100), "image": np.arange(100, 200)}))
    assert before.classes_.dtype.kind == after.classes_.dtype.kind
    names = sorted(path.name for path in (tmp_path / "new" / "model").iterdir())
    assert names == ["recognizer.json", weights(tmp_path / "new" / "model").name]


def assert_same(before: Recognizer, after: Recognizer, X: ModalityArrays) -> None:
    """They say the same of items, and know the same of themselves."""
    for name, said in vars(before.recognise(X)).items():
        np.testing.assert_array_equal(getattr(after.recognise(X), name), said, err_msg=name)
    assert before.predict(X).tolist() == after.predict(X).tolist()
    assert {**before.get_params(), "options": None} == after.get_params()
    assert before.details_ == after.details_
    for kind in ("heads", "calibrations", "sets", "detectors", "thresholds", "residuals"):
        assert list(getattr(before.only_column_, kind)) == list(getattr(after.only_column_, kind)), kind
    np.testing.assert_array_equal(before.only_column_.counts, after.only_column_.counts)
    if before.only_column_.exemplars is not None:
        assert after.only_column_.exemplars is not None
        np.testing.assert_array_equal(before.only_column_.exemplars.codes, after.only_column_.exemplars.codes)


QUICK = RungOptions(network=NetworkOptions(hidden=8, training=Training(epochs=4)))


@pytest.mark.parametrize(
    ("adapter", "fusion"),
    [
        ("zero-shot", "concat"),
        ("prototypes", "mean"),
        ("network", "single"),
        ("linear", "stack"),
        ("linear", "gated"),
        ("linear", "attention"),
    ],
)
def test_every_rung_and_fusion_comes_back_from_disk(tmp_path: Path, adapter: Any, fusion: Any) -> None:
    X, y = planted(48, seed=24)
    shared = {name: X.vectors[name][:, :12] for name in ("image", "text")}
    names = {label: shared["text"][y == label].mean(axis=0) for label in NAMES}
    both = ModalityArrays(X.vectors, X.present, shared)
    before = Recognizer(adapter=adapter, fusion=fusion, unknown="knn", options=QUICK, folds=2).fit(both, y, names=names)
    assert before.details_.fusion == fusion
    before.save(tmp_path / "model")
    fresh = ModalityArrays(FRESH.vectors, FRESH.present, {n: FRESH.vectors[n][:, :12] for n in ("image", "text")})
    assert_same(before, Recognizer.load(tmp_path / "model"), mixed_of(fresh))


def mixed_of(arrays: ModalityArrays) -> ModalityArrays:
    """A third of the items without text, a third without image."""
    present = {name: mask.copy() for name, mask in arrays.present.items()}
    present["text"][::3] = False
    present["image"][1::3] = False
    return ModalityArrays(arrays.vectors, present, arrays.shared)


def test_a_stack_of_some_of_the_modalities_comes_back_from_disk(tmp_path: Path) -> None:
    modalities: tuple[Modality, ...] = ("image", "text", "audio")
    X, y = planted(90, seed=7, modalities=modalities)
    X = without(X, {"audio": np.arange(0, 45), "image": np.arange(50, 90), "text": np.arange(50, 90)})
    before = probes(fusion="stack").fit(X, y)
    assert before.only_column_.main == ("image", "text")
    before.save(tmp_path / "model")
    assert_same(before, Recognizer.load(tmp_path / "model"), planted(50, seed=8, modalities=modalities)[0])


def test_a_loaded_recogniser_predicts_without_scikit_learn(fitted: Recognizer, tmp_path: Path) -> None:
    fitted.save(tmp_path / "model")
    np.save(tmp_path / "image.npy", FRESH.vectors["image"][:5])
    program = (
        "import sys, numpy as np\n"
        "from chiasm.recognition import Recognizer\n"
        "r = Recognizer.load(sys.argv[1] + '/model')\n"
        "print(','.join(r.predict({'image': np.load(sys.argv[1] + '/image.npy')})))\n"
        "assert not {'sklearn', 'scipy', 'torch'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip().split(",") == fitted.predict({"image": FRESH.vectors["image"][:5]}).tolist()


def test_saving_again_replaces_and_spares_other_folders(fitted: Recognizer, tmp_path: Path) -> None:
    other = probes().fit(*planted(40, seed=22))
    fitted.save(tmp_path / "model")
    other.save(tmp_path / "model")
    assert strengths(Recognizer.load(tmp_path / "model")) == strengths(other)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    with pytest.raises(ChiasmError, match="photos exists and is not a saved recogniser: choose another folder"):
        fitted.save(tmp_path / "photos")
    assert (tmp_path / "photos" / "cat.png").exists()


@pytest.mark.parametrize("failing", [1, 2])
def test_a_save_that_fails_leaves_what_was_there(
    fitted: Recognizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    fitted.save(tmp_path / "model")
    other = probes().fit(*planted(40, seed=23))
    calls = 0

    def full(path: Path, content: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(28, "No space left on device")
        write_whole(path, content)

    monkeypatch.setattr(storage, "write_whole", full)
    with pytest.raises(OSError, match="No space left"):
        other.save(tmp_path / "model")
    assert strengths(Recognizer.load(tmp_path / "model")) == strengths(fitted)
    monkeypatch.undo()
    other.save(tmp_path / "model")
    assert len(list((tmp_path / "model").iterdir())) == 2, "nothing is left of what failed"


def weights(folder: Path) -> Path:
    (path,) = folder.glob("weights-*.safetensors")
    return path


def edited(folder: Path, **changes: Any) -> None:
    path = folder / "recognizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edited_column(folder: Path, **changes: Any) -> None:
    fields = json.loads((folder / "recognizer.json").read_text())
    edited(folder, columns=[{**fields["columns"][0], **changes}])


BARE = [{"modalities": ["image"], "fields": {}, "arrays": []}]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "holds no saved recogniser: recognizer.json is missing"),
        (lambda folder: (folder / "recognizer.json").write_text("{"), "is not JSON"),
        (lambda folder: (folder / "recognizer.json").write_bytes(b"\xff\xfe"), "is not JSON"),
        (lambda folder: (folder / "recognizer.json").write_text("[]"), "holds a list instead of an object"),
        (lambda folder: edited(folder, format="chiasm-space"), "got 'chiasm-space'"),
        (lambda folder: edited(folder, version=1), "saved in version 1 of the format; this chiasm reads version"),
        (lambda folder: edited(folder, weights="../x"), "names no arrays"),
        (lambda folder: edited(folder, columns=[]), "damaged .*no columns"),
        (lambda folder: edited(folder, parameters={"depth": 3}), "damaged"),
        (lambda folder: edited_column(folder, names={"kind": "text", "values": ["a"]}), "damaged .*knows"),
        (lambda folder: edited_column(folder, counts=[1]), "damaged .*1 counts"),
        (lambda folder: edited_column(folder, heads=[]), "damaged .*every modality needs a head"),
        (lambda folder: edited_column(folder, own={"image": 9}), "damaged .*mean.own.image"),
        (lambda folder: edited_column(folder, fusion="magic"), "damaged .*fusion 'magic'"),
        (lambda folder: edited_column(folder, best="video"), "damaged .*with 'video'"),
        (lambda folder: edited_column(folder, kind="image"), "damaged .*column of 'image'"),
        (lambda folder: edited_column(folder, details={}), "damaged"),
        (lambda folder: edited_column(folder, calibrations=BARE), "damaged .*calibration"),
        (lambda folder: edited_column(folder, sets=BARE), "damaged .*conformal"),
        (lambda folder: edited_column(folder, detectors=BARE), "damaged .*detector"),
        (lambda folder: edited_head(folder, rung="forest"), "damaged .*a head 'forest'"),
        (lambda folder: edited_head(folder, known=[0, 1]), "damaged .*4 outputs for 2 names"),
        (lambda folder: edited_head(folder, items=0), "damaged .*from 0 items"),
        (lambda folder: weights(folder).unlink(), "damaged"),
        (lambda folder: weights(folder).write_bytes(b"\x00" * 7), "damaged"),
        (lambda folder: spoil(folder, "head.image.coef"), "damaged .*head.image.coef"),
        (lambda folder: spoil(folder, "mean.own.text"), "damaged .*mean.own.text"),
        (lambda folder: spoil(folder, "exemplars.codes"), "damaged .*stored examples"),
        (lambda folder: shorten(folder, "head.text.coef"), "damaged"),
        (lambda folder: shorten(folder, "exemplars.vectors.text"), "damaged"),
    ],
)  # fmt: skip
def test_a_damaged_or_foreign_folder_is_refused(fitted: Recognizer, tmp_path: Path, damage: Any, message: str) -> None:
    fitted.save(tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises(ChiasmError, match=message):
        Recognizer.load(tmp_path / "model")


def edited_head(folder: Path, **changes: Any) -> None:
    heads = json.loads((folder / "recognizer.json").read_text())["columns"][0]["heads"]
    edited_column(folder, heads=[{**heads[0], **changes}, *heads[1:]])


def spoil(folder: Path, name: str) -> None:
    tensors = load_file(weights(folder))
    array = tensors[f"column.0.{name}"]
    array.ravel()[0] = np.nan if array.dtype.kind == "f" else -7
    save_file(tensors, weights(folder))


def shorten(folder: Path, name: str) -> None:
    tensors = load_file(weights(folder))
    name = f"column.0.{name}"
    save_file({**tensors, name: tensors[name][:-1].copy()}, weights(folder))


def test_a_description_that_is_too_large_is_not_read(fitted: Recognizer, tmp_path: Path) -> None:
    fitted.save(tmp_path / "model")
    os.truncate(tmp_path / "model" / "recognizer.json", LARGEST_OBJECT + 1)
    with pytest.raises(ChiasmError, match="is larger than"):
        Recognizer.load(tmp_path / "model")
