"""Full text of a collection: what is found, by what score, and that the index follows the collection through crashes."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_encoder import FakeEncoder
from media_files import gradient, image_bytes, sound_bytes, tone
from test_collection import write

from chiasm.encoders.base import Embeddings
from chiasm.errors import CollectionError
from chiasm.store import tables
from chiasm.store import words as module
from chiasm.store.add import add_manifests
from chiasm.store.collection import Collection
from chiasm.store.manifest import read_manifest
from chiasm.store.tables import Tables
from chiasm.store.words import METADATA, FullText, FullTextReport, WordHits
from chiasm.types import Modality, Outcome


class Hearing(FakeEncoder):
    """Hears the same words in every sound."""

    words = "take the second exit"

    def encode_prepared(self, modality: Modality, batch: Sequence[Any]) -> Embeddings:
        found = super().encode_prepared(modality, batch)
        return replace(found, texts=(self.words,) * len(batch)) if modality == "audio" else found


def table(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    return write(path, "\n".join(json.dumps(row) for row in rows))


def add(collection: Collection, *paths: Path) -> None:
    add_manifests(collection, [read_manifest(path) for path in paths], [Hearing()])


@pytest.fixture
def made(tmp_path: Path) -> Collection:
    return Collection.create(tmp_path / "collection", encoder="fake")


@pytest.fixture
def birds(made: Collection, tmp_path: Path) -> Collection:
    add(
        made,
        table(
            tmp_path / "birds.jsonl",
            [
                {"id": "1", "text": "The red birds are flying", "place": "Köln"},
                {"id": "2", "text": "a bird in a tree", "place": "Paris", "height": 3},
                {"id": "3", "text": ["a café", "don't panic: \"quotes\" (and) O'Neil"]},
                {"id": "4", "text": "写真家と写真"},
                {"id": "holiday/IMG_2041", "text": ["owl and many other words", "owl"]},
            ],
        ),
    )
    return made


@pytest.fixture
def indexed(birds: Collection) -> FullText:
    words = FullText(birds)
    words.update()
    return words


def found(collection: Collection, text: str, k: int = 10, **options: Any) -> list[tuple[str, str]]:
    words = FullText(collection)
    words.update()
    hits = words.search(text, k=k, **options)
    assert (np.diff(hits.scores) <= 0).all()
    assert (hits.scores > 0).all()
    return list(zip(hits.items, hits.slots, strict=True))


# ----------------------------------------------------------------------------------------------------- what is found


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("bird", {("1", "text/0"), ("2", "text/0")}),
        ("FLY", {("1", "text/0")}),  # endings and case
        ("cafe", {("3", "text/0")}),  # accents
        ("koln", {("1", METADATA)}),  # columns
        ("写真", {("4", "text/0")}),  # no spaces between words
        ("img 2041", {("holiday/IMG_2041", METADATA)}),  # parts of names
        ("holidays", {("holiday/IMG_2041", METADATA)}),
        ("owl", {("holiday/IMG_2041", "text/1")}),  # once, by the best document
        ("o'neil", {("3", "text/1")}),
        ('"red" AND (tree)', {("1", "text/0"), ("2", "text/0")}),  # no operators
    ],
)
def test_words_are_found_in_any_form(birds: Collection, query: str, expected: set[tuple[str, str]]) -> None:
    assert set(found(birds, query)) == expected


@pytest.mark.parametrize("query", ["", "  \n", "?!… \"'(", "the of and", "zebra", "\0", "bird:* OR", "text:[a TO b]"])
def test_a_query_never_breaks_and_may_find_nothing(birds: Collection, query: str) -> None:
    assert {item for item, _ in found(birds, query)} == ({"1", "2"} if "bird" in query else set())
    with pytest.raises(ValueError, match="k must be"):
        found(birds, query, k=0)


def test_scores_are_bm25(made: Collection, tmp_path: Path) -> None:
    """Slowly, with documents of columns among the documents."""
    texts = ["fish", "fish fish boat", "boat on water with sail", "fish boat water rock", "rock"]
    add(made, table(tmp_path / "t.jsonl", [{"id": f"x{i}", "text": text} for i, text in enumerate(texts)]))
    words = FullText(made)
    words.update()
    hits = words.search("fish rock", k=10)
    documents = [[word for word in text.split() if word not in {"on", "with"}] for text in texts]
    everything = documents + [[f"x{i}"] for i in range(5)]
    mean = np.mean([len(document) for document in everything])

    def bm25(document: list[str]) -> float:
        score: float = 0.0
        for word in ("fish", "rock"):
            holding = sum(word in other for other in everything)
            rarity = math.log(1 + (len(everything) - holding + 0.5) / (holding + 0.5))
            often = document.count(word)
            score += float(rarity * often * 2.2 / (often + 1.2 * (0.25 + 0.75 * len(document) / mean)))
        return score

    expected = {f"x{i}": bm25(document) for i, document in enumerate(documents) if bm25(document)}
    assert dict(zip(hits.items, hits.scores, strict=True)) == pytest.approx(expected, rel=1e-5)


def test_only_some_items_may_be_found_however_many_others_score_higher(
    made: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_DOCUMENTS", 4)
    rows = [{"id": f"n{i:03}", "text": "owl " * 5 if i != 77 else "owl with many more words"} for i in range(120)]
    add(made, table(tmp_path / "t.jsonl", rows))
    assert found(made, "owl", k=1, among=lambda _: {"n077"}) == [("n077", "text/0")]
    assert found(made, "owl", k=1, among=lambda _: set()) == []
    assert len(found(made, "owl", k=100)) == 100
    assert len(found(made, "owl", k=1000)) == 120


def test_texts_of_files_and_transcripts_are_searched(made: Collection, tmp_path: Path) -> None:
    write(tmp_path / "media/owl.txt", "hoots at midnight".encode("utf-16"))
    write(tmp_path / "media/way.wav", sound_bytes(tone(0.2, 8000), 8000, "WAV"))
    write(tmp_path / "media/pic.png", image_bytes(gradient(12, 10), "PNG"))
    add(made, tmp_path / "media")
    heard = FullText(made, heard=[Hearing().fingerprint])
    report = heard.update()
    assert report == FullTextReport(documents=5, added=5, removed=0, unread=())
    hits = heard.search("exit", k=5)
    assert (hits.items, hits.slots, hits.texts) == (("way",), ("audio/0",), (Hearing.words,))
    assert np.isnan(hits.starts).all()
    assert np.isnan(hits.ends).all()
    assert heard.search("midnight", k=5).items == ("owl",)
    assert heard.covered(heard.collection.ids()) == {"owl", "way"}  # the picture has a name, and no words of its own


def test_moments_are_documents_of_their_own(made: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "media/way.wav", sound_bytes(tone(0.2, 8000), 8000, "WAV"))
    add(made, tmp_path / "media")
    whole = made.vectors(Hearing().fingerprint, moments=True)
    both = replace(
        whole,
        items=whole.items * 3,
        slots=whole.slots * 3,
        modalities=whole.modalities * 3,
        hashes=whole.hashes * 3,
        texts=("turn left then right", "turn left", "then right"),
        vectors=np.repeat(whole.vectors, 3, axis=0),
        languages=whole.languages * 3,
        starts=np.array([np.nan, 0.5, 2.0]),
        ends=np.array([np.nan, 1.5, 3.0]),
    )
    monkeypatch.setattr(Collection, "vectors", lambda *_, **__: both)
    heard = FullText(made, heard=[Hearing().fingerprint])
    assert heard.update().documents == 4
    hits = heard.search("right", k=3)
    assert (hits.items, hits.texts, hits.starts.tolist(), hits.ends.tolist()) == (
        ("way",),
        ("then right",),
        [2.0],
        [3.0],
    )


# ---------------------------------------------------------------------------------------- following the collection


def test_nothing_is_written_while_nothing_has_changed(birds: Collection) -> None:
    words = FullText(birds)
    assert not words.is_current()
    assert words.update().added == 12  # seven texts and five documents of columns
    assert words.is_current()
    versions = sorted(path.name for path in birds.path.glob("fulltext/documents.lance/_versions/*"))
    assert words.update() == FullTextReport(12, 0, 0, ())
    assert sorted(path.name for path in birds.path.glob("fulltext/documents.lance/_versions/*")) == versions


def test_the_index_follows_additions_changes_and_removals(birds: Collection, indexed: FullText, tmp_path: Path) -> None:
    words = indexed
    add(birds, table(tmp_path / "more.jsonl", [{"id": "5", "text": "a penguin"}, {"id": "2", "text": "a fish"}]))
    assert not words.is_current()
    report = words.update()
    assert (report.added, report.removed) == (4, 2)  # 2 has lost its text and its place
    assert words.search("bird", k=9).items == ("1",)
    assert words.search("paris", k=9).items == ()
    assert set(words.search("fish penguin", k=9).items) == {"2", "5"}
    birds.remove(["1", "5"])
    assert not words.is_current()
    assert words.update().removed == 4
    assert words.search("bird penguin", k=9).items == ()
    assert words.covered(words.collection.ids()) == {"2", "3", "4", "holiday/IMG_2041"}


def test_text_files_that_are_not_what_was_added_are_named(made: Collection, tmp_path: Path) -> None:
    for name in ("kept", "changed", "gone", "secret"):
        write(tmp_path / f"media/{name}.txt", f"{name} words")
    add(made, tmp_path / "media")
    write(tmp_path / "media/changed.txt", "something else by now")
    (tmp_path / "media/gone.txt").unlink()
    words = FullText(made)
    report = words.update()
    assert {(Path(one.path).name, one.outcome) for one in report.unread} == {
        ("changed.txt", Outcome.BROKEN),
        ("gone.txt", Outcome.BROKEN),
    }
    reasons = {Path(one.path).name: one.reason for one in report.unread}
    assert all("is not as it was" in reason for reason in reasons.values())
    assert found(made, "words") != []
    assert words.covered(words.collection.ids()) == {"kept", "secret"}
    # What has a document already keeps it while its file is away, until the collection knows better.
    (tmp_path / "media/kept.txt").unlink()
    add(made, write(tmp_path / "other.txt", "other"))
    assert "kept" in words.covered(words.collection.ids())
    assert words.update().added == 2
    add(made, tmp_path / "media")
    words.update()
    assert words.covered(words.collection.ids()) == {"kept", "changed", "secret", "other"}


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("step", range(5))
def test_an_update_that_was_cut_off_is_completed_by_the_next(
    birds: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    words = FullText(birds)
    words.update()
    add(birds, table(tmp_path / "more.jsonl", [{"id": "5", "text": "a penguin"}, {"id": "2", "text": "a fish"}]))
    birds.remove(["3"])
    monkeypatch.setattr(module, "COMMIT_DOCUMENTS", 2)
    cuts = [("append", 0), ("append", 1), ("delete", 0), ("index", 0), ("write_whole", 0)]
    name, after = cuts[step]
    owner: Any = module if name == "write_whole" else Tables
    original, calls = getattr(owner, name), iter(range(9))

    def cut(*arguments: Any, **options: Any) -> Any:
        if next(calls) == after:
            raise Killed
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, cut)
        with pytest.raises(Killed):
            words.update()
    assert not words.is_current()
    words.update()
    again = FullText(birds)
    assert again.is_current()
    shutil.copytree(birds.path, tmp_path / "anew")
    shutil.rmtree(tmp_path / "anew/fulltext")
    anew = FullText(Collection.open(tmp_path / "anew"))
    anew.update()
    for query in ("bird", "penguin", "fish", "cafe", "tree", "paris"):
        assert sorted(again.search(query, k=9).items) == sorted(anew.search(query, k=9).items)
    assert again.update().documents == anew.update().documents


def test_what_another_process_adds_meanwhile_is_not_taken_for_stale(
    birds: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, other = FullText(birds), FullText(birds)
    original = FullText._add
    changed = iter([True])

    def add_between(self: FullText, rows: Any) -> int:
        if next(changed, False):
            add(birds, table(tmp_path / "more.jsonl", [{"id": "5", "text": "a penguin"}]))
            other.update()
        return original(self, rows)

    monkeypatch.setattr(FullText, "_add", add_between)
    report = words.update()
    assert (report.documents, report.removed) == (14, 0)
    assert words.is_current()
    assert words.search("penguin", k=3).items == ("5",)


def test_many_small_updates_are_merged(birds: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "COMPACT_FRAGMENTS", 3)
    words = FullText(birds)
    for number in range(6):
        add(birds, table(tmp_path / f"{number}.jsonl", [{"id": f"n{number}", "text": f"ibis number{number}"}]))
        words.update()
    assert set(words.search("ibis", k=9).items) == {f"n{number}" for number in range(6)}


# ------------------------------------------------------------------------------------------------------- bad input


def test_an_empty_collection_has_no_words(made: Collection) -> None:
    words = FullText(made)
    assert isinstance(words.search("bird", k=3), WordHits)
    assert len(words.search("bird", k=3)) == 0
    assert words.covered(words.collection.ids()) == frozenset()
    assert words.update() == FullTextReport(0, 0, 0, ())
    assert words.is_current()
    assert len(words.search("bird", k=3)) == 0


def test_a_damaged_index_says_what_to_do(birds: Collection, indexed: FullText) -> None:
    for path in (birds.path / "fulltext/documents.lance/_versions").iterdir():
        path.write_bytes(b"damaged")
    with pytest.raises(CollectionError, match="delete this folder"):
        indexed.search("bird", k=3)
    shutil.rmtree(birds.path / "fulltext")
    indexed.update()
    assert len(indexed.search("bird", k=3)) == 2


@pytest.mark.parametrize("state", ["", "[]", "{"])
def test_a_damaged_state_is_made_anew(indexed: FullText, state: str) -> None:
    (indexed.collection.path / "fulltext/state.json").write_text(state)
    assert not indexed.is_current()
    assert indexed.update().added == 0
    assert indexed.is_current()


def test_an_index_of_another_version_is_made_anew(birds: Collection, indexed: FullText) -> None:
    state = birds.path / "fulltext/state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "format_version": 99}))
    assert indexed.update().added == 12
    assert len(indexed.search("bird", k=3)) == 2


def test_a_folder_that_cannot_be_written_is_named(birds: Collection) -> None:
    (birds.path / "fulltext").write_text("a file where the folder should be")
    with pytest.raises(CollectionError, match="cannot be written"):
        FullText(birds).update()


def test_what_is_kept_remembers_whose_transcripts_it_holds(tmp_path: Path) -> None:
    collection = Collection.create(tmp_path / "collection", encoder="fake")
    assert FullText.open(collection) is None
    FullText(collection, heard=()).update()
    found = FullText.open(collection)
    assert found is not None
    assert found.heard == ()
