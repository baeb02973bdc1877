"""Fine-tuning on several columns: one network, a loss for each column, and one comparison of them all."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from planted_texts import texts_of_two_kinds, write_table

import chiasm
from chiasm.cli import run
from chiasm.encoders.tuned import read_about
from chiasm.errors import ChiasmError, LabelError
from chiasm.finetuning.comparison import compare
from chiasm.finetuning.items import Examples, Items, collate
from chiasm.finetuning.recipe import Recipe
from chiasm.finetuning.tasks import Rows, Task, row_weights, start_tasks
from chiasm.finetuning.towers import Tower
from chiasm.finetuning.trainer import Classifier, embed, train
from chiasm.finetuning.views import store_views
from chiasm.recognition.targets import Target, parse_target
from chiasm.types import Text
from chiasm.verbs.dataset import label_columns

RNG = np.random.default_rng(0)
SMALL: dict[str, Any] = {
    "blocks": 1,
    "epochs": 1,
    "views": 0,
    "batch_size": 8,
    "folds": 2,
    "alike": 1.01,
    "device": "cpu",
}
LOOK = parse_target(["red", "blue", None, "red", "blue", "red"], column="look")
TAGS = parse_target([["a"], ["a", "b"], [], None, ["b"], ["a"]], column="tags")
SIZE = parse_target([1.5, None, 3.0, 4.0, 8.0, 2.0], column="size")


# ------------------------------------------------------------------------------------------------------- the comparison


def test_columns_are_compared_in_units_of_guessing() -> None:
    """The mean over columns of the mean over items, restated; the error is that of items, not of columns."""
    size = SIZE.values[:, None].copy()
    before = [np.log(np.full((6, 2), 0.5)), np.zeros((6, 2)), np.full((6, 1), np.nanmean(size))]
    look = np.log(np.where(LOOK.values[:, None] == np.arange(2), 0.9, 0.1))
    after = [look, np.where(TAGS.values, 2.0, -2.0), 0.5 * before[2] + 0.5 * size]
    compared = compare([LOOK, TAGS, SIZE], before, after)
    known = SIZE.values[SIZE.known]
    share = TAGS.values[TAGS.known].mean(axis=0)
    tags = 2 * 0.25 - np.square(1 / (1 + np.exp(2.0))) * 2
    expected = [
        (compared.columns[0].frozen.loss - compared.columns[0].tuned.loss) / (2 * 0.6 * 0.4),
        tags / (share * (1 - share)).sum(),
        0.75 * np.square(known - known.mean()).mean() / known.var(),
    ]
    assert compared.better_by == pytest.approx(np.mean(expected))
    assert compared.columns[1].better_by == pytest.approx(tags)
    assert compared.columns[2].tuned.r2 == pytest.approx(0.75)
    assert [one.column for one in compared.columns] == ["look", "tags", "size"]
    assert compared.is_better


def test_what_rounding_gains_is_no_gain() -> None:
    """Each item is better, so the error is small as well: the same network run by another library is not a better one."""
    number = Target("one", "number", np.arange(40.0), np.ones(40, dtype=bool), np.empty(0))
    before = number.values[:, None] + 1.0
    for step, is_better in ((1e-6, False), (0.5, True)):
        compared = compare([number], [before], [before - step])
        assert compared.better_by > compared.standard_error
        assert compared.is_better is is_better


def test_a_column_that_loses_more_than_a_standard_error_vetoes() -> None:
    number = Target("one", "number", RNG.normal(size=40), np.ones(40, dtype=bool), np.empty(0))
    other = Target("two", "number", RNG.normal(size=40), np.ones(40, dtype=bool), np.empty(0))
    rough = [np.zeros((40, 1)), other.values[:, None] + 0.1]
    fine = [number.values[:, None], other.values[:, None] + 0.3]
    compared = compare([number, other], rough, fine)
    assert compared.better_by > compared.standard_error
    assert compared.worse == ("two",)
    assert not compared.is_better
    assert compare([number, other], rough, [fine[0], rough[1]]).is_better


def test_what_only_one_side_could_hold_out_does_not_count() -> None:
    before = [np.array([[0.0, np.nan], [1.0, np.nan], [-1.0, np.nan], [np.nan, np.nan], [0.0, np.nan], [1.0, np.nan]])]
    after = [np.where(np.isnan(before[0]), 50.0, before[0])]
    compared = compare([TAGS], before, after)
    assert compared.better_by == 0
    assert compared.columns[0].frozen == compared.columns[0].tuned


# ------------------------------------------------------------------------------------------------------------ the tasks


def test_a_missing_value_has_no_part_and_the_others_weigh_more() -> None:
    held = np.array([False, False, False, False, True, True])
    nowhere = np.zeros(6, dtype=bool)
    rows, start = start_tasks([LOOK, TAGS, SIZE], np.arange(6), nowhere, held, RNG.normal(size=(6, 4)), Recipe())
    assert [(task.kind, task.outputs) for task in rows.tasks] == [("classes", 2), ("labels", 2), ("number", 1)]
    assert rows.weights[:, 0].tolist() == pytest.approx([4 / 3, 4 / 3, 0, 4 / 3, 1, 1])
    assert (rows.weights[~held].sum(axis=0) == pytest.approx(4)) and (
        rows.weights[held].sum(axis=0) == pytest.approx(2)
    )
    assert not rows.targets[rows.weights[:, rows.owner] == 0].any()
    size = rows.targets[SIZE.known, 4]
    assert (float(size.mean()), float(size.std())) == pytest.approx((0, 1), abs=1e-6)
    assert start.weight.shape == (5, 4)


def test_classes_are_balanced_in_each_column() -> None:
    codes = np.array([0, 0, 0, 1, -1])
    nowhere = np.zeros(5, dtype=bool)
    weights = row_weights(codes, nowhere, nowhere, Recipe(class_weight="balanced"))
    assert weights[:3].sum() == pytest.approx(weights[3])
    assert (weights.sum(), weights[4]) == (pytest.approx(5), 0)


def test_labels_that_no_item_or_every_item_has_start_improbable_and_probable() -> None:
    names = np.array(["all", "none", "some"])
    values = np.stack([np.ones(8), np.zeros(8), np.arange(8) % 2], axis=1) > 0
    target = Target("tags", "labels", values, np.ones(8, dtype=bool), names)
    nowhere = np.zeros(8, dtype=bool)
    _, start = start_tasks([target], np.arange(8), nowhere, nowhere, RNG.normal(size=(8, 3)), Recipe())
    assert start.bias[:2].tolist() == [3.0, -3.0]
    assert not start.weight[:2].any()


class Matrix(Tower):
    """One matrix on numbers that a text writes."""

    kind = "library"

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.frozen, self.options = 1, 0, {}
        self.layer = torch.nn.Linear(4, 3, bias=False)

    def stored(self, media: Any) -> Any:
        return [{"states": np.array(one.text.split(), np.float32)} for one in media]

    def forward(self, **arrays: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.layer(arrays["states"])
        return output

    def save(self, folder: Path) -> None:
        raise NotImplementedError


def planted(recipe: Recipe) -> tuple[Classifier, dict[str, torch.Tensor]]:
    """Return a classifier of three columns, and a batch of eight items that lack some values."""
    torch.manual_seed(0)
    tasks = (Task("classes", 0, 3), Task("labels", 3, 2), Task("number", 5, 1))
    tower = Matrix()
    model = Classifier(tower, tasks, torch.zeros(3), torch.randn(6, 3), torch.randn(6), recipe)
    targets = torch.cat(
        [torch.eye(3)[RNG.integers(0, 3, 8)], (torch.rand(8, 2) > 0.5).float(), torch.randn(8, 1)], dim=1
    )
    weights = torch.tensor(RNG.choice([0.0, 1.5], (8, 3)), dtype=torch.float32)
    batch = {"targets": targets, "weights": weights}
    return model, {**batch, "source": torch.zeros(8, dtype=torch.bool), "states": torch.randn(8, 4)}


def test_the_loss_is_that_of_each_column_by_its_uncertainty() -> None:
    """Kendall et al. 2018, restated item by item; and it is the mean of that of the two halves of a batch."""
    model, batch = planted(Recipe(label_smoothing=0.0))
    with torch.no_grad():
        model.log_variances.copy_(torch.tensor([0.5, -0.2, 0.1]))
        result = model(**batch)
        scores, targets, weights = result["logits"], batch["targets"], batch["weights"]
        total = 0.0
        for column, variance in enumerate((0.5, -0.2, 0.1)):
            losses = []
            for item in range(8):
                own, wanted = scores[item].double(), targets[item].double()
                if column == 0:
                    loss = -float(torch.log(own[:3].exp() / own[:3].exp().sum()) @ wanted[:3])
                elif column == 1:
                    chance = 1 / (1 + (-own[3:5]).exp())
                    loss = -float((wanted[3:5] * chance.log() + (1 - wanted[3:5]) * (1 - chance).log()).mean())
                else:
                    loss = 0.5 * float(own[5] - wanted[5]) ** 2
                losses.append(float(weights[item, column]) * loss)
            total += np.exp(-variance) * np.mean(losses) + variance / 2
        assert float(result["loss"]) == pytest.approx(total, rel=1e-5)
        halves = [
            float(model(**{name: one[part] for name, one in batch.items()})["loss"]) for part in (slice(4), slice(4, 8))
        ]
    assert float(result["loss"]) == pytest.approx(np.mean(halves), rel=1e-5)


def test_the_variances_are_learned_and_kept_in_a_checkpoint() -> None:
    model, batch = planted(Recipe())
    model(**batch)["loss"].backward()
    assert model.log_variances.grad is not None and model.log_variances.grad.any()
    assert any(parameter is model.log_variances for parameter in model.head)
    assert "log_variances" in model.state_dict()


def test_one_column_has_no_variance() -> None:
    model = Classifier(Matrix(), (Task("number", 0, 1),), torch.zeros(3), torch.randn(1, 3), torch.zeros(1), Recipe())
    assert set(model.state_dict()) == {"weight", "bias", "tower.layer.weight"}


def test_a_mixed_item_has_the_values_that_one_of_the_two_lacks_from_the_other(tmp_path: Path) -> None:
    tasks = (Task("classes", 0, 2), Task("number", 2, 1))
    targets = np.array([[1, 0, 0], [0, 1, 2.0]], np.float32)
    weights = np.array([[1, 0], [1, 3]], np.float32)
    recipe = Recipe(mixup=1.0, views=0)
    views = store_views(Matrix(), [lambda: Text("0 0 0 0"), lambda: Text("1 1 1 1")], tmp_path, views=1, seed=0)
    items = Items(
        views,
        np.arange(2),
        Rows(tasks, targets, weights),
        np.zeros(2, dtype=bool),
        recipe,
        learned=True,
    )
    mixed = False
    for epoch in range(20):
        items.epoch = epoch
        one = items[0]
        share = 1 - float(one["arrays"]["states"][0])
        assert one["targets"][:2].tolist() == pytest.approx([share, 1 - share], abs=1e-6)
        assert one["weights"].tolist() == pytest.approx([1, 3 * (1 - share)], abs=1e-5)
        mixed |= 0.01 < share < 0.99
        if share < 0.999:
            assert one["targets"][2] == pytest.approx(2.0)
    assert mixed
    assert collate([items[0], items[1]])["weights"].shape == (2, 2)


def test_one_network_learns_what_each_column_asks_for(tmp_path: Path) -> None:
    """A class and a number lie in directions that the start hardly sees; two of three items lack one of them."""
    torch.manual_seed(0)
    states = np.random.default_rng(1).normal(size=(90, 4))
    kind = np.where(np.arange(90) % 3 == 0, -1, states[:, 2] > 0)
    size = np.where(np.arange(90) % 3 == 1, np.nan, states[:, 3])
    columns = [
        Target("kind", "classes", kind, kind >= 0, np.array(["no", "yes"])),
        Target("size", "number", size, np.isfinite(size), np.empty(0)),
    ]
    openers = [partial(Text, " ".join(map(str, row))) for row in states.round(3).tolist()]
    grown = {}
    for name, some in (("both", columns), ("kind", columns[:1]), ("size", columns[1:])):
        tower = Matrix()
        with torch.no_grad():
            tower.layer.weight.copy_(torch.eye(3, 4) + 0.05 * torch.eye(3, 4).roll(2, 1))
        views = store_views(tower, openers, tmp_path / "views", views=1, seed=0)
        rows = np.flatnonzero(np.any([one.known for one in some], axis=0))
        recipe = Recipe(method="full", epochs=10, batch_size=15, rate=0.05, views=0, average=1.0, patience=0)
        examples = Examples(some, np.arange(90), np.zeros(90, dtype=bool))
        frozen = embed(tower, views, np.arange(90))
        tuned = train(
            tower, views, examples, rows, recipe, tmp_path / name, frozen=frozen, measured=rows[:1], device="cpu"
        )
        grown[name] = tuned.weights["layer.weight"].norm(dim=0)
    assert grown["both"][2] > 0.3 and grown["both"][3] > 0.3
    assert grown["kind"][3] < grown["both"][3] and grown["size"][2] < grown["both"][2]


# ------------------------------------------------------------------------------------------------------------- the verbs


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Words of two kinds among others, with several columns, some of whose values are missing."""
    return texts_of_two_kinds(
        tmp_path_factory.mktemp("tasks"),
        lambda number, kind, text: {
            "tags": json.dumps([word for word in ("red", "big") if word in text.split()]),
            "size": "" if number % 6 == 0 else text.split().count("the") + 0.5,
            "part": "" if number % 3 else kind,
            "one": "same",
            "odd": "nan" if number else "7.5",
        },
    )


def test_one_network_learns_several_columns(texts: Path, tmp_path: Path) -> None:
    said: list[str] = []
    result = chiasm.finetune(
        texts,
        label=["kind", "tags", "size", "part"],
        out=tmp_path / "encoder",
        keep=True,
        report=tmp_path / "report.html",
        on_message=said.append,
        **SMALL,
    )
    (part,) = result.parts
    assert result.label == "kind,tags,size,part"
    assert [(one.column, one.kind) for one in part.columns] == [
        ("kind", "classes"),
        ("tags", "labels"),
        ("size", "number"),
        ("part", "classes"),
    ]
    assert part.columns[2].frozen.r2 is not None and part.columns[0].frozen.accuracy is not None
    assert part.items == 48
    assert "in units of what guessing would lose" in said[-1]
    labels = read_about(tmp_path / "encoder")["parts"]["text"]["about"]["labels"]
    assert labels == {"kind": ["animal", "thing"], "tags": ["big", "red"], "size": [], "part": ["animal", "thing"]}
    page = (tmp_path / "report.html").read_text()
    assert all(f"{column}</td>" in page for column in ("kind", "tags", "size", "part"))


@pytest.mark.parametrize("label", ["size", "tags"])
def test_numbers_and_labels_are_learned_alone_as_well(label: str, texts: Path, tmp_path: Path) -> None:
    result = chiasm.finetune(texts, label=label, out=tmp_path / "encoder", **SMALL)
    (column,) = result.parts[0].columns
    assert column.kind == {"size": "number", "tags": "labels"}[label]
    assert (result.label, result.encoder) == (label, "" if not result.parts[0].is_better else str(tmp_path / "encoder"))


def test_the_command_takes_several_labels(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--label", "kind", "--label", "size", "--epochs", "1", "--views", "0", "--folds", "2", "--blocks", "1"]
    assert run(["finetune", str(texts), "--out", str(tmp_path / "encoder"), *options, "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "kind" in printed and "size" in printed
    assert (
        run(["fit", str(texts), "--out", str(tmp_path / "model"), "--label", "kind", "--label", "size", "--json"]) == 0
    )
    assert set(json.loads(capsys.readouterr().out)["metrics"]["columns"]) == {"kind", "size"}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"label": ["kind", "one"]}, "column 'one': all 48 values are same"),
        ({"label": ["kind", "none"]}, "has no column 'none'"),
        ({"label": ["kind", "odd"]}, "column 'odd'"),
        ({"label": []}, "no column is named"),
        ({"label": ["kind", "size"], "source": "other"}, "source: only for one column of classes"),
        ({"label": ["size", "tags"], "class_weight": "balanced"}, "class_weight: only where a column of classes"),
        ({"label": "size", "focal": 2.0}, "focal: only where a column of classes"),
    ],
)
def test_bad_requests_say_so(options: dict[str, Any], match: str, texts: Path, tmp_path: Path) -> None:
    with pytest.raises((LabelError, ChiasmError), match=match):
        chiasm.finetune(texts, out=tmp_path / "encoder", device="cpu", **options)
    assert not list(tmp_path.iterdir())


def test_a_column_that_no_item_with_the_modality_has_says_so(tmp_path: Path) -> None:
    rows = [
        {"image": "", "text": f"{number} {['cat', 'dog'][number % 2]}", "kind": "ab"[number % 2], "place": ""}
        for number in range(8)
    ]
    for number in range(4):
        PillowImage.new("RGB", (16, 16), (60 * number, 0, 0)).save(tmp_path / f"{number}.png")
        rows.append({"image": f"{number}.png", "text": "", "kind": "ab"[number % 2], "place": "xy"[number % 2]})
    chiasm.add([write_table(tmp_path / "table.csv", rows)], to=tmp_path / "collection")
    with pytest.raises(LabelError, match="no item with an embedding of text has a value in 'place'"):
        chiasm.finetune(tmp_path / "collection", label=["kind", "place"], out=tmp_path / "encoder", device="cpu")


def test_columns_are_named_one_by_one_or_with_commas(texts: Path) -> None:
    collection = chiasm.Collection.open(texts)
    assert label_columns(collection, ["kind", "size", "kind"]) == ["kind", "size"]
    assert label_columns(collection, "kind, size") == ["kind", "size"]
    assert label_columns(collection, ("kind",)) == ["kind"]


def with_options(**options: Any) -> Callable[..., Recipe]:
    """Return what makes a recipe with these options, whatever it is asked for."""
    return lambda **asked: Recipe(**{**asked, **options})


@pytest.mark.parametrize("label", [["kind", "size"], ["tags"]])
def test_fit_climbs_with_columns_of_any_kind(
    label: list[str], texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thorough: dict[str, Any] = {
        "method": "full",
        "epochs": 12,
        "rate": 1e-3,
        "batch_size": 8,
        "views": 0,
        "average": 1.0,
    }
    monkeypatch.setattr("chiasm.verbs.last_rung.Recipe", with_options(**thorough))
    result = chiasm.fit(
        texts,
        label=label,
        out=tmp_path / "model",
        finetune=30,
        alike=1.01,
        device="cpu",
        report=tmp_path / "report.html",
    )
    assert "macro-F1" in result.finetuned[0] and ("'size' R²" in result.finetuned[0]) is (len(label) > 1)
    assert set(result.metrics.get("columns", label)) == set(label)
    assert bool(result.encoder) is (": better" in result.finetuned[0] and "not kept" not in result.finetuned[0])
    assert "fine-tuned" in (tmp_path / "report.html").read_text()
