"""Labels that are worth a look: a planted mistake comes first, judged by heads that have not learned from it."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_encoder import FakeEncoder
from fake_searcher import png

import chiasm
from chiasm import encoders
from chiasm.errors import LabelError
from chiasm.store.collection import Collection
from chiasm.store.feedback import FeedbackTable, Label
from chiasm.verbs.model import load_model
from chiasm.verbs.review import Review, review_items
from chiasm.verbs.spaces import start_of

COLOURS = {"red": (200, 30, 30), "green": (30, 180, 40), "blue": (30, 40, 200)}
WRONG, BARE, ODD = "04", "05", "06"
NETWORKS = [FakeEncoder(("image", "text"))]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Thirty pictures of three colours; one has a wrong label, one none, one a label that no model can learn."""
    folder = tmp_path_factory.mktemp("review")
    with pytest.MonkeyPatch.context() as patch, (folder / "items.csv").open("w", newline="") as file:
        patch.setattr(encoders, "resolve", lambda *_, **__: NETWORKS)
        table = csv.writer(file)
        table.writerow(["id", "image", "colour", "year"])
        for number in range(30):
            name = [*COLOURS][number % 3]
            red, green, blue = (min(255, value + number) for value in COLOURS[name])
            (folder / f"{number}.png").write_bytes(png((red, green, blue)))
            said = {WRONG: "blue", BARE: "", ODD: "plaid"}.get(f"{number:02}", name)
            table.writerow([f"{number:02}", f"{number}.png", said, number])
        file.flush()
        chiasm.add([folder / "items.csv"], to=folder / "collection")
        known = " OR ".join(f"colour = '{name}'" for name in COLOURS)
        chiasm.fit(folder / "collection", label="colour", out=folder / "model", alike=2.0, where=known)
        yield folder


def review(made: Path, most: int = 30) -> Review:
    collection = Collection.open(made / "collection")
    model = load_model(made / "model")
    return review_items(model, collection, NETWORKS, start_of(collection, NETWORKS), most=most)


def test_a_planted_mistake_comes_first_and_is_judged_without_itself(made: Path) -> None:
    assert WRONG in load_model(made / "model").trained_on
    found = review(made)
    first = found.items[0]
    assert (first.id, first.kind, first.label, first.prediction) == (WRONG, "suspect", "blue", "green")
    assert first.probability > 0.5
    assert set(found.classes) == set(COLOURS)
    assert found.waiting == 0


def test_items_without_a_label_are_asked_for_and_unknown_labels_are_not(made: Path) -> None:
    by_id = {one.id: one for one in review(made).items}
    assert (by_id[BARE].label, by_id[BARE].prediction) == (None, "blue")
    assert ODD not in by_id, "the model cannot say anything about a label that it does not know"
    assert len(by_id) == 29


def test_there_is_room_for_every_kind(made: Path) -> None:
    kinds = Counter(one.kind for one in review(made, most=12).items)
    assert (kinds["suspect"], kinds["unsure"], sum(kinds.values())) == (1, 4, 12)
    assert review(made, most=2).items[0].id == WRONG


def test_what_people_said_is_not_asked_again(made: Path) -> None:
    table = FeedbackTable(Collection.open(made / "collection"))
    table.add([Label(WRONG, "colour", "green")], who="ann")
    try:
        found = review(made)
        assert WRONG not in {one.id for one in found.items}
        assert found.waiting == 1
    finally:
        table.delete(who="ann")


def test_models_of_numbers_are_refused(made: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "resolve", lambda *_, **__: NETWORKS)
        chiasm.fit(made / "collection", label="year", task="number", out=made / "numbers", alike=2.0)
    collection = Collection.open(made / "collection")
    with pytest.raises(LabelError, match="one column of classes"):
        review_items(load_model(made / "numbers"), collection, NETWORKS, start_of(collection, NETWORKS))
