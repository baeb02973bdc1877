"""Search as a program uses it: planted answers through every option, moments, indexes, and what changes underneath."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from media_files import Film
from painter import COLOURS, mixtures, paint, painted, painters, picture, sound, table, words_of

import chiasm
from chiasm import encoders
from chiasm.errors import CollectionError, MediaError, SpaceError
from chiasm.files import digest_file
from chiasm.retrieval.rerank import Reranked
from chiasm.retrieval.scores import PairScores, Preparation, ScoreModel
from chiasm.space import Space
from chiasm.store.collection import Collection
from chiasm.types import Image, Media, Text
from chiasm.verbs import search as searcher
from chiasm.verbs import spaces
from chiasm.verbs.query import Hit, Query, SearchOptions, SearchResult
from chiasm.verbs.ranking import full_text, owner_number
from chiasm.verbs.search import Searcher
from chiasm.verbs.spaces import SavedSpace, load_space, placed_vectors, save_space

CREATED = "2000-01-01T00:00:00.000000+00:00"


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "resolve", lambda *_, **__: painters())


@pytest.fixture(scope="module")
def patched() -> Iterator[None]:
    """For fixtures that are made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "resolve", lambda *_, **__: painters())
        yield


@pytest.fixture(scope="module")
def house(patched: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few items of all sorts."""
    root = tmp_path_factory.mktemp("house")
    media = root / "media"
    (media / "page.txt").parent.mkdir(parents=True)
    (media / "page.txt").write_text("green page", encoding="utf-8")
    film = Film(audio="aac", scenes=(COLOURS["red"], COLOURS["blue"]), frames=100, amplitude=0.4)
    (media / "film.mp4").write_bytes(film.written("mp4"))
    rows = [
        {"id": "rose", "image": picture(media / "rose.png", (1, 0, 0)), "text": "red rose", "room": "hall", "year": 1},
        {
            "id": "leaf",
            "image": picture(media / "leaf.png", (0, 1, 0)),
            "text": "green leaf",
            "room": "hall",
            "year": 2,
        },
        {"id": "sea", "image": picture(media / "sea.png", (0, 0, 1)), "text": "blue sea", "room": "bath", "year": 3},
        {"id": "sky", "image": picture(media / "sky.png", (0, 1, 9)), "room": "bath", "year": 4},
        {"id": "note", "text": ["letter", "red blue envelope"], "room": "attic", "year": 5},
        {"id": "page", "text": str(media / "page.txt"), "room": "attic", "year": 6},
        {"id": "song", "audio": sound(media / "song.wav", "red", "green", "red"), "room": "hall", "year": 7},
        {"id": "film", "video": str(media / "film.mp4"), "room": "hall", "year": 8},
    ]
    chiasm.add([table(root / "house.jsonl", rows)], to=root / "collection")
    return root / "collection"


@pytest.fixture(scope="module")
def shades(patched: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 118 mixtures with their words, and what scores are worth learned from them."""
    root = tmp_path_factory.mktemp("shades")
    chiasm.add([painted(root / "media")], to=root / "collection")
    chiasm.align(root / "collection", method="none", name="judged")
    return root / "collection"


@pytest.fixture(scope="module")
def base(patched: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """33 pictures with words."""
    root = tmp_path_factory.mktemp("base")
    chiasm.add([painted(root / "media", 5)], to=root / "collection")
    return root / "collection"


@pytest.fixture
def made(base: Path, tmp_path: Path) -> Path:
    """A copy of a test's own."""
    return Path(shutil.copytree(base, tmp_path / "collection"))


def ask(*plus: Media | str, **rest: Any) -> Query:
    return Query(tuple(Text(one) if isinstance(one, str) else one for one in plus), **rest)


def ids(result: SearchResult) -> list[str]:
    return [hit.id for hit in result.hits]


def plain(*parts: int) -> Image:
    return Image(np.full((8, 8, 3), [round(255 * part / max(parts)) for part in parts], np.uint8))


def unit(medium: Media) -> np.ndarray:
    vector = paint(medium)
    result: np.ndarray = vector / np.linalg.norm(vector)
    return result


# ----------------------------------------------------------------------------------------------------- what is found


@pytest.mark.parametrize(
    ("query", "best"),
    [
        ("red rose", "rose"),
        (plain(0, 1, 9), "sky"),
        ("letter", "note"),
        ("green page", "page"),
    ],
)
def test_the_nearest_item_is_found(house: Path, query: Media | str, best: str) -> None:
    result = Searcher(house).search(ask(query))
    assert result.hits[0].id == best
    assert result.hits[0].score == pytest.approx(1, abs=1e-5)
    assert result.space == "start"
    assert (result.found, result.threshold, result.false_hit_rate) == (None, None, None)
    assert len(set(ids(result))) == 8, "each item once, and all of them"
    assert [hit.score for hit in result.hits] == sorted((hit.score for hit in result.hits), reverse=True)


@pytest.mark.parametrize("modality", ["image", "text", "audio", "video"])
def test_one_modality(house: Path, modality: Any) -> None:
    expected = {
        "image": {"rose", "leaf", "sea", "sky"},
        "text": {"rose", "leaf", "sea", "note", "page"},
        "audio": {"song"},
        "video": {"film"},
    }
    result = Searcher(house).search(ask("green"), SearchOptions(modality=modality))
    assert set(ids(result)) == expected[modality]
    assert {hit.modality for hit in result.hits} == {modality}


def test_only_items_that_meet_a_condition(house: Path) -> None:
    search = Searcher(house).search
    assert set(ids(search(ask("red"), SearchOptions(where="room = 'bath' OR year > 7")))) == {"sea", "sky", "film"}
    assert set(ids(search(ask("red"), SearchOptions(where="room = 'hall'", modality="image")))) == {"rose", "leaf"}
    assert ids(search(ask("red"), SearchOptions(where="room = 'cellar'"))) == []
    assert ids(search(ask("red"), SearchOptions(where="room = 'cellar'", hybrid=True, diversity=0.5))) == []


def test_pages_follow_each_other(house: Path) -> None:
    search = Searcher(house).search
    whole = ids(search(ask("red blue"), SearchOptions(k=100)))
    pages = [ids(search(ask("red blue"), SearchOptions(k=3, offset=offset))) for offset in (0, 3, 6, 9)]
    assert [len(page) for page in pages] == [3, 3, 2, 0]
    assert list(chain(*pages)) == whole


@pytest.mark.parametrize("options", [{}, {"hybrid": True}, {"diversity": 0.5}, {"hybrid": True, "diversity": 0.3}])
@pytest.mark.parametrize("space", ["judged", "start"])
def test_pages_never_overlap_however_far(
    shades: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], space: str
) -> None:
    """Further pages look at more candidates; those of the first pages stay where they were."""
    monkeypatch.setattr(searcher, "CANDIDATES", 10)
    search = Searcher(shades, space=space).search
    seen = [
        name
        for offset in range(0, 120, 5)
        for name in ids(search(ask("red green"), SearchOptions(k=5, offset=offset, **options)))
    ]
    assert len(seen) == len(set(seen)) == len(mixtures(8))


def test_k_and_offset_have_limits(house: Path) -> None:
    searched = Searcher(house)
    for k, offset in [(0, 0), (-1, 0), (1, -1), (10_001, 0), (1, 10_000)]:
        with pytest.raises(CollectionError, match=f"at most 10000; got {k} and {offset}"):
            searched.search(ask("red"), SearchOptions(k=k, offset=offset))
    assert len(searched.search(ask("red"), SearchOptions(k=10_000)).hits) == 8


def test_modalities_that_the_space_lacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(encoders, "resolve", lambda *_, **__: painters("image", "text"))
    chiasm.add([painted(tmp_path / "media", 2)], to=tmp_path / "collection")
    searched = Searcher(tmp_path / "collection")
    assert searched.modalities == ("image", "text")
    with pytest.raises(SpaceError, match="has image, text; cannot find by 'audio'"):
        searched.search(ask("red"), SearchOptions(modality="audio"))
    with pytest.raises(SpaceError, match=r"has image, text, not audio.*--encoder"):
        searched.open(sound(tmp_path / "a.wav", "red"))


@pytest.mark.parametrize(
    ("query", "options", "message"),
    [
        (Query(), {}, "got nothing"),
        (Query(liked=("rose",)), {}, "got nothing"),
        (Query(vectors=np.zeros((0, 12), np.float32)), {}, "got nothing"),
        (Query(minus=(Text("red"),)), {}, "not wanted"),
        (ask(" \n"), {}, "empty"),
        (ask("red", minus=(Text("red"),)), {}, "nothing is left"),
        (Query(like=("nosuch",)), {}, "no item 'nosuch'"),
        (ask("red", liked=("rose", "nosuch")), {}, "no item 'nosuch' with an embedded file"),
        (ask("red", disliked=("nosuch", "norsuch")), {}, r"no item 'nosuch' \(and 1 more"),
        (ask("red"), {"metric": "euclid"}, "no metric 'euclid'"),
        (ask("red"), {"metric": "l2", "min_probability": "auto"}, "Leave out the metric"),
        (ask("red"), {"min_probability": "auto"}, "chiasm align"),
        (ask("red"), {"diversity": -0.1}, "got -0.1"),
        (ask("red"), {"diversity": 1.1}, "got 1.1"),
        (ask("red"), {"where": "room = = 1"}, "Columns: id"),
    ],
)
def test_queries_that_are_refused(house: Path, query: Query, options: dict[str, Any], message: str) -> None:
    with pytest.raises((SpaceError, CollectionError), match=message):
        Searcher(house).search(query, SearchOptions(**options))


def test_a_query_that_cannot_be_opened(house: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(MediaError):
        Searcher(house).open(tmp_path / "bad.png")
    with pytest.raises(MediaError, match=r"bad\.png: "):
        chiasm.search(house, image=tmp_path / "bad.png")
    with pytest.raises(MediaError, match=r"gone\.wav: the file does not exist"):
        chiasm.search(house, audio=[str(tmp_path / "gone.wav")])


def test_an_empty_collection(tmp_path: Path) -> None:
    Collection.create(tmp_path / "empty", encoder="offline")
    searched = Searcher(tmp_path / "empty")
    with pytest.raises(CollectionError, match=r"has no embedded files\. Add some: chiasm add PATH --to"):
        searched.search(ask("red"))
    assert searched.status().items == 0
    assert searched.items(ids=["one"]) == []
    with pytest.raises(CollectionError):
        Searcher(tmp_path / "nowhere")
    with pytest.raises(SpaceError, match=r"has no space 'other'\. It has: start"):
        Searcher(tmp_path / "empty", space="other")


# ---------------------------------------------------------------------------------------------------- composed queries


def test_several_examples_are_one_query(house: Path) -> None:
    best = Searcher(house).search(ask(plain(1, 0, 0), plain(0, 0, 1))).hits[0]
    assert (best.id, best.modality, best.start) == ("film", "video", None)  # red and then blue
    assert best.score == pytest.approx(1, abs=0.01)


def test_a_picture_and_words(house: Path) -> None:
    best = Searcher(house).search(ask(plain(1, 0, 0), "blue envelope"), SearchOptions(modality="text")).hits[0]
    assert (best.id, best.text) == ("note", "red blue envelope")


def test_what_is_not_wanted_is_taken_out(house: Path) -> None:
    search = Searcher(house).search
    assert ids(search(ask("red", "blue"), SearchOptions(modality="image", k=1))) != ["sea"]
    result = search(ask("red blue", minus=(Text("red"),)), SearchOptions(modality="image"))
    assert ids(result)[:2] == ["sea", "sky"]
    red = next(hit for hit in result.hits if hit.id == "rose")
    assert red.score == pytest.approx(0, abs=1e-6)


def test_prepared_vectors_give_the_same(house: Path) -> None:
    searched = Searcher(house)
    plus, minus = (Text("red green"), plain(0, 0, 1)), (Text("green"),)
    vectors = searched.prepare([*plus, *minus])
    np.testing.assert_allclose(vectors, [unit(medium) for medium in (*plus, *minus)], atol=1e-6)
    assert searched.search(Query(plus, minus, vectors=vectors)) == searched.search(Query(plus, minus))
    with pytest.raises(SpaceError, match=r"3 media needs as many vectors; got 2"):
        searched.search(Query(plus, minus, vectors=vectors[:2]))


def test_like_an_item(house: Path) -> None:
    search = Searcher(house).search
    hits = search(Query(like=("sea",))).hits
    assert "sea" not in {hit.id for hit in hits}
    assert len(hits) == 7
    assert hits[0].id == "sky", "blue, and without words that would be other ones"
    assert ids(search(Query(like=("sea",)), SearchOptions(where="year < 3"))) == ["rose", "leaf"]
    assert search(ask("blue", like=("rose",))).hits[0].id == "film", "and words"


@pytest.mark.parametrize(
    "query",
    [
        Query(like=("rose", "leaf")),
        Query(like=("sea",), minus=(Text("sea"),)),
        Query(like=("sea",), liked=("rose",)),
        Query(like=("sea",), disliked=("rose",)),
    ],
)
@pytest.mark.parametrize("named", [{}, {"modality": "image"}])
def test_like_several_or_with_other_parts_is_ordered(house: Path, query: Query, named: dict[str, Any]) -> None:
    hits = Searcher(house).search(query, SearchOptions(**named)).hits
    assert not {hit.id for hit in hits} & {*query.like, *query.liked, *query.disliked}
    assert len({hit.id for hit in hits}) == len(hits) >= 2
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_thumbs_move_the_query_and_are_not_shown_again(shades: Path) -> None:
    search = Searcher(shades).search
    before = search(ask("red green"), SearchOptions(k=1, modality="image")).hits[0]
    assert before.id == "1-1-0"

    def blue(result: SearchResult) -> float:
        found = np.array([[int(part) for part in hit.id.split("-")] for hit in result.hits], float)
        return float((found[:, 2] / found.sum(axis=1)).mean())

    neutral = search(ask("red green"), SearchOptions(modality="image"))
    up = search(ask("red green", liked=("0-0-1",)), SearchOptions(modality="image"))
    down = search(ask("red green", liked=("1-1-1",), disliked=("0-0-1",)), SearchOptions(modality="image"))
    assert blue(up) > blue(down) > 0
    assert blue(up) > blue(neutral)
    assert "0-0-1" not in ids(search(ask("red green", liked=("0-0-1",)), SearchOptions(k=1000)))
    assert not {"0-0-1", "1-1-1"} & set(
        ids(search(ask("blue", liked=("0-0-1",), disliked=("1-1-1",)), SearchOptions(k=1000)))
    )


# --------------------------------------------------------------------------------------------------------- fields


def scores_of(collection: Path) -> ScoreModel:
    found = load_space(collection / "spaces" / "judged").scores
    assert found is not None
    return found


def learn(collection: Path, name: str, scores: ScoreModel | None = None) -> None:
    """A newer space as `align` makes it, in no time."""
    opened = Collection.open(collection)
    space = spaces.start_of(opened, painters()).with_maps(name, {}, about={})
    save_space(collection / "spaces" / name, SavedSpace(space, scores))


def hit_of(result: SearchResult, name: str) -> Hit:
    (found,) = [hit for hit in result.hits if hit.id == name]
    return found


def test_fields_of_a_hit(house: Path) -> None:
    search = Searcher(house).search
    rose = hit_of(search(ask("red"), SearchOptions(modality="image")), "rose")
    assert rose.path is not None
    assert Path(rose.path).name == "rose.png"
    assert (rose.text, rose.start, rose.end, rose.probability, rose.moments) == (None, None, None, None, ())
    assert rose.metadata == {"room": "hall", "year": 1}
    note = hit_of(search(ask("letter")), "note")
    assert (note.path, note.text, note.modality) == (None, "letter", "text")
    page = hit_of(search(ask("green page")), "page")
    assert page.path is not None
    assert (Path(page.path).name, page.text) == ("page.txt", None)
    row = search(ask("red rose"), SearchOptions(k=1)).as_dict()
    assert json.loads(json.dumps(row))["hits"][0]["moments"] == []
    assert row["space"] == "start"
    assert row["hits"][0].items() >= {"id": "rose", "metadata": {"room": "hall", "year": 1}, "moments": ()}.items()


def test_a_moment_and_the_best_ones_first(house: Path) -> None:
    song = hit_of(Searcher(house).search(ask("green")), "song")
    assert (song.start, song.end, song.text, song.modality) == (1.0, 2.0, "green", "audio")
    assert song.score == pytest.approx(1)
    parts = [(span.start, span.end, span.text) for span in song.moments]
    assert parts == [(1, 2, "green"), (0, 1, "red"), (2, 3, "red")]
    assert [span.score for span in song.moments] == pytest.approx([1, 0, 0], abs=1e-6)


def test_a_whole_file_that_is_nearer_than_its_moments(house: Path) -> None:
    song = hit_of(Searcher(house).search(ask("red red green")), "song")
    assert (song.start, song.end, song.text) == (None, None, "red green red")
    assert song.score == pytest.approx(1)
    assert [span.start for span in song.moments] == [0, 2, 1]


def test_where_a_moment_ties_with_the_whole_the_moment_is_taken(tmp_path: Path) -> None:
    rows = [{"id": "hum", "audio": sound(tmp_path / "hum.wav", "blue", "blue")}]
    chiasm.add([table(tmp_path / "t.jsonl", rows)], to=tmp_path / "collection")
    hum = Searcher(tmp_path / "collection").search(ask("blue")).hits[0]
    assert (hum.start, hum.end) == (0.0, 1.0)


def test_no_more_than_five_moments_are_named(tmp_path: Path) -> None:
    colours = ["red", "green", "blue", "red", "green", "blue", "red"]
    rows = [{"id": "long", "audio": sound(tmp_path / "long.wav", *colours)}]
    chiasm.add([table(tmp_path / "t.jsonl", rows)], to=tmp_path / "collection")
    hit = Searcher(tmp_path / "collection").search(ask("green")).hits[0]
    assert [span.start for span in hit.moments] == [1, 4, 0, 2, 3]


def test_a_sound_track_is_found_as_its_video(house: Path) -> None:
    search = Searcher(house).search
    seen = hit_of(search(ask("blue"), SearchOptions(modality="video")), "film")
    assert seen.modality == "video"
    assert [seen.start, seen.end] == pytest.approx([2, 4], abs=0.3)
    heard = hit_of(search(ask("green"), SearchOptions(modality="video")), "film")
    assert heard.modality == "video"
    assert heard.text == "green"
    assert heard.start is not None
    assert heard.path == seen.path
    assert search(ask("green"), SearchOptions(modality="audio")).hits[0].id == "song"
    assert "film" not in ids(search(ask("green"), SearchOptions(modality="audio")))


# ------------------------------------------------------------------------------------------------------- probabilities


def test_hits_are_probable_and_nothing_is_found_where_nothing_fits(shades: Path) -> None:
    search = Searcher(shades).search
    right = search(ask("red red green"), SearchOptions(k=20))
    assert right.space == "judged"
    assert right.found is True
    assert right.threshold is not None
    assert right.false_hit_rate is not None
    assert right.hits[0].id == "2-1-0"
    chances = [hit.probability for hit in right.hits]
    assert all(chance is not None and 0 <= chance <= 1 for chance in chances)
    assert chances == sorted(chances, key=lambda chance: -(chance or 0))
    kept_ = search(ask("red red green"), SearchOptions(k=1000, min_probability="auto"))
    assert 1 <= len(kept_.hits) < len(mixtures(8))
    assert all(hit.probability is not None and hit.probability >= right.threshold for hit in kept_.hits)
    nothing = search(ask("zebra"), SearchOptions(min_probability="auto"))
    assert (nothing.hits, nothing.found, nothing.threshold) == ((), False, right.threshold)
    assert search(ask("zebra")).hits, "without a least probability all is shown"
    assert search(ask("zebra")).found is False


def test_a_least_probability_of_ones_own(shades: Path) -> None:
    search = Searcher(shades).search
    everything = search(ask("green blue"), SearchOptions(k=1000, min_probability=0.0))
    assert len(everything.hits) == len(mixtures(8))
    some = search(ask("green blue"), SearchOptions(k=1000, min_probability=0.3))
    assert [hit.id for hit in everything.hits if (hit.probability or 0) >= 0.3] == ids(some)
    assert some.threshold == 0.3
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(SpaceError, match="from 0 to 1"):
            search(ask("green"), SearchOptions(min_probability=wrong))


@pytest.mark.parametrize(
    "query",
    [
        ask("red red green"),
        ask("zebra"),
        ask("red", "green"),
        Query(like=("1-0-0",)),
        Query(like=("1-0-0", "0-1-0")),
        Query((Text("red"),), minus=(Text("green"),)),
        Query((Text("red"),), liked=("1-1-0",), disliked=("0-0-1",)),
    ],
    ids=["words", "nothing", "two", "like", "like two", "minus", "thumbs"],
)
def test_one_rule_for_scores_whatever_was_asked(query: Query, shades: Path) -> None:
    result = Searcher(shades).search(query, SearchOptions(k=1000))
    assert result.threshold is not None
    for hit in result.hits:
        assert hit.probability is not None
        expected = "unlikely" if hit.probability < result.threshold else "possible" if hit.probability < 0.5 else "good"
        assert hit.band == expected
    assert result.found == any(hit.band != "unlikely" for hit in result.hits), "what is shown decides"
    least = Searcher(shades).search(query, SearchOptions(k=1000, min_probability="auto"))
    assert {hit.id for hit in least.hits} == {hit.id for hit in result.hits if hit.band != "unlikely"}
    chances = [hit.probability for hit in result.hits]
    if not query.names_items_only:  # those are in the order of all their files
        assert chances == sorted(chances, key=lambda chance: -(chance or 0))


def test_a_composed_query_finds_what_is_both(shades: Path) -> None:
    assert Searcher(shades).search(ask("red", "green"), SearchOptions(modality="image")).hits[0].id == "1-1-0"


def test_without_probabilities_there_are_no_bands(house: Path) -> None:
    result = Searcher(house).search(ask("red"))
    assert {(hit.probability, hit.band) for hit in result.hits} == {(None, None)}
    assert result.found is None


def test_a_least_probability_where_no_item_may_be_found(shades: Path) -> None:
    """No item meets the condition: that is an answer, not a lack of probabilities."""
    result = Searcher(shades).search(ask("red"), SearchOptions(where="most = 'white'", min_probability="auto"))
    assert (result.hits, result.found) == ((), False)


# ------------------------------------------------------------------------------------------------------------ metrics


def restated(searched: Searcher, q: np.ndarray, metric: str) -> dict[str, float]:
    """The value of every item by its best file, one file after another."""
    rows = placed_vectors(searched.collection, searched.space)
    x = rows.vectors.astype(np.float64)
    values = -np.linalg.norm(x - q, axis=1) if metric == "l2" else x @ q
    best: dict[str, float] = {}
    for item, value in zip(rows.items.tolist(), values.tolist(), strict=True):
        best[item] = max(best.get(item, -np.inf), value)
    return best


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_a_metric_alone_orders_hits_and_is_their_score(shades: Path, metric: Any) -> None:
    searched = Searcher(shades)
    for words in ("red green", "blue", "red red red green zebra"):
        result = searched.search(ask(words), SearchOptions(k=1000, metric=metric))
        expected = restated(searched, unit(Text(words)).astype(np.float64), metric)
        assert {hit.id: hit.score for hit in result.hits} == pytest.approx(expected, rel=1e-4, abs=1e-5)
        scores = [hit.score for hit in result.hits]
        assert (np.diff(scores) < 1e-6).all(), "best first"
        assert len(scores) == len(mixtures(8))
        assert {hit.probability for hit in result.hits} == {None}
        assert (result.found, result.threshold, result.false_hit_rate) == (None, None, None)


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_a_metric_with_every_other_option(shades: Path, metric: Any) -> None:
    searched = Searcher(shades)
    asked = ask("red red green blue", minus=(Text("blue"),))
    every = searched.search(asked, SearchOptions(k=1000, metric=metric))
    some = searched.search(asked, SearchOptions(k=1000, metric=metric, where="most = 'green'", modality="image"))
    assert {hit.metadata["most"] for hit in some.hits} == {"green"}
    assert {hit.modality for hit in some.hits} == {"image"}
    assert (np.diff([hit.score for hit in some.hits]) < 1e-6).all()
    assert ids(searched.search(asked, SearchOptions(k=5, offset=5, metric=metric))) == ids(every)[5:10]
    spread = searched.search(asked, SearchOptions(k=5, metric=metric, diversity=1.0))
    assert ids(spread)[0] == ids(every)[0]
    assert set(ids(spread)) != set(ids(every)[:5])
    fused = searched.search(ask("blue"), SearchOptions(k=1000, metric=metric, hybrid=True))
    of_id = {hit.id: hit.score for hit in searched.search(ask("blue"), SearchOptions(k=1000, metric=metric)).hits}
    assert {hit.id: hit.score for hit in fused.hits} == pytest.approx(of_id)
    liked = searched.search(ask("red", liked=("0-0-1",)), SearchOptions(k=1000, metric=metric))
    assert "0-0-1" not in ids(liked)
    like = searched.search(Query(like=("1-1-0",)), SearchOptions(k=1000, metric=metric))
    assert "1-1-0" not in ids(like)
    assert (np.diff([hit.score for hit in like.hits]) < 1e-6).all(), "files by the item's vector"
    assert ids(searched.search(ask("red"), SearchOptions(metric=metric, where="most = 'white'"))) == []


def test_moments_are_by_the_metric(house: Path) -> None:
    hit = Searcher(house).search(ask("green"), SearchOptions(modality="audio", metric="l2")).hits[0]
    assert (hit.id, hit.start, hit.end, hit.score) == ("song", 1, 2, 0)
    assert [moment.score for moment in hit.moments] == pytest.approx([0, -np.sqrt(2), -np.sqrt(2)])


# ------------------------------------------------------------------------------------- words, rerankers, differences


def test_an_item_is_found_by_its_words_only(house: Path) -> None:
    """ "hall" is a value of a column, which no vector holds."""
    search = Searcher(house).search
    assert ids(search(ask("attic")))[:2] != ["note", "page"]
    result = search(ask("attic"), SearchOptions(hybrid=True))
    assert set(ids(result)[:2]) == {"note", "page"}
    assert len(set(ids(result))) == len(result.hits) == 8
    assert ids(search(ask("attic"), SearchOptions(hybrid=True, where="room <> 'attic'")))[:1] != ["note"]
    assert not {"note", "page"} & set(ids(search(ask("attic"), SearchOptions(hybrid=True, where="room <> 'attic'"))))


def test_media_without_words_are_not_behind_for_it(house: Path) -> None:
    before = Searcher(house).search(ask("blue"), SearchOptions(modality="image"))
    fused = Searcher(house).search(ask("blue"), SearchOptions(modality="image", hybrid=True))
    assert ids(before)[:2] == ["sea", "sky"]
    assert ids(fused)[:2] == ["sea", "sky"], "the sky has no words, the others have none that match"


def test_what_is_heard_is_among_the_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = painters()

    def words_space(networks: Sequence[Any], name: str = "start") -> Space:
        fingerprints = dict.fromkeys(("image", "text", "audio"), one[0].fingerprint)
        tensors = {"centre": np.zeros(12, np.float32)}
        starts: Any = {"image": "identity", "text": "words", "audio": "words"}
        return Space(name, 12, fingerprints, starts, tensors, created=CREATED)  # type: ignore[arg-type]

    monkeypatch.setattr(spaces, "start_space", words_space)
    monkeypatch.setattr(encoders, "resolve", lambda *_, **__: one[:1])
    rows = [
        {"id": "song", "audio": sound(tmp_path / "song.wav", "green", "green", "red")},
        {"id": "text", "text": "nothing of the sort"},
    ]
    chiasm.add([table(tmp_path / "t.jsonl", rows)], to=tmp_path / "collection")
    searched = Searcher(tmp_path / "collection")
    words = full_text(searched.collection, searched.space)
    assert list(words.heard) == [one[0].fingerprint]
    words.update()
    assert words.search("green", k=5).items == ("song",)


def test_words_that_nothing_holds_change_nothing(house: Path) -> None:
    search = Searcher(house).search
    assert search(ask("quartz"), SearchOptions(hybrid=True)).hits == search(ask("quartz")).hits
    assert search(ask(plain(1, 0, 0)), SearchOptions(hybrid=True)).hits == search(ask(plain(1, 0, 0))).hits, (
        "no words at all"
    )


def test_words_bring_nothing_below_the_least_probability(shades: Path) -> None:
    search = Searcher(shades).search
    result = search(ask("zebra red"), SearchOptions(k=1000, hybrid=True, min_probability="auto"))
    assert all(hit.probability is not None and hit.probability >= (result.threshold or 1) for hit in result.hits)
    both = search(ask("red red green"), SearchOptions(k=1000, hybrid=True, min_probability="auto"))
    assert set(ids(both)) == set(ids(search(ask("red red green"), SearchOptions(k=1000, min_probability="auto"))))


class Longest:
    """A reranker to whom the longest text is the best."""

    made: ClassVar[list[tuple[str, str]]] = []
    read: ClassVar[list[list[str | None]]] = []

    def __init__(self, name: str, *, device: str) -> None:
        self.made.append((name, device))

    def lengths(self, text: Text) -> tuple[int, int | None]:
        return len(text.text.split()), 8

    def rerank(self, query: Media, candidates: Sequence[Media | None], *, limit: int) -> Reranked:
        assert isinstance(query, Text)
        texts = [one.text if isinstance(one, Text) else None for one in candidates]
        self.read.append(texts)
        order = sorted(range(len(texts)), key=lambda place: -len(texts[place] or ""))
        return Reranked(np.array(order), np.array([float(len(texts[place] or "")) for place in order]))


@pytest.fixture
def longest(monkeypatch: pytest.MonkeyPatch) -> type[Longest]:
    monkeypatch.setattr("chiasm.retrieval.rerank.Reranker", Longest)
    monkeypatch.setattr(Longest, "made", [])
    monkeypatch.setattr(Longest, "read", [])
    return Longest


def test_what_is_cut_of_a_long_query_is_said(house: Path, longest: type[Longest]) -> None:
    def cut(words: str, **options: Any) -> tuple[str, ...]:
        return Searcher(house, device="cpu").search(ask(words), SearchOptions(**options)).notes

    assert cut("red " * 4, rerank="some/model", hybrid=True) == ()
    (note,) = cut("red " * 5, rerank="some/model")
    assert "takes 8 tokens" in note
    assert "the query has 5" in note
    (note,) = cut("red " * 2501, hybrid=True)
    assert "first 10,000 characters" in note
    assert cut("red " * 2501) == (), "vectors are of all of it"


def test_a_reranker_reads_the_words_of_hits(house: Path, longest: type[Longest]) -> None:
    searched = Searcher(house, device="cpu")
    before = ids(searched.search(ask("green")))
    result = ids(searched.search(ask("green"), SearchOptions(rerank="some/model")))
    (read,) = longest.read
    texts = dict(zip(before, read, strict=True))
    assert texts["song"] == "green", "what is said in the moment that was found"
    assert texts["rose"] == "red rose", "of a picture the words of its item"
    assert texts["sky"] is None
    assert result == sorted(before, key=lambda name: -len(texts[name] or ""))
    assert result != before
    searched.search(ask("green"), SearchOptions(rerank="some/model"))
    assert longest.made == [("some/model", "cpu")], "loaded once"
    with pytest.raises(SpaceError, match="a reranker reads the words of the query, and it has none"):
        searched.search(ask(plain(1, 0, 0)), SearchOptions(rerank="some/model"))


def test_no_more_than_fifty_are_reranked(shades: Path, longest: type[Longest]) -> None:
    searched = Searcher(shades)
    before = ids(searched.search(ask("red"), SearchOptions(k=100)))
    after = ids(searched.search(ask("red"), SearchOptions(k=100, rerank="m")))
    assert [len(texts) for texts in longest.read] == [50]
    assert set(after[:50]) == set(before[:50])
    assert after[:50] != before[:50]
    assert after[50:] == before[50:]
    pages = [ids(searched.search(ask("red"), SearchOptions(k=30, offset=offset, rerank="m"))) for offset in (0, 30, 60)]
    assert list(chain(*pages)) == after[:90]


def test_hits_that_differ(shades: Path) -> None:
    search = Searcher(shades, space="start").search

    def spread(diversity: float) -> float:
        hits = search(ask("red green blue"), SearchOptions(modality="image", k=5, diversity=diversity)).hits
        vectors = np.stack([unit(plain(*(int(part) for part in hit.id.split("-")))) for hit in hits])
        return float((vectors @ vectors.T)[~np.eye(len(hits), dtype=bool)].mean())

    found = [spread(0.0), spread(0.7), spread(1.0)]
    assert found[0] > found[1] > found[2]
    assert search(ask("red"), SearchOptions(diversity=1.0)).hits[0].id == search(ask("red")).hits[0].id


# ----------------------------------------------------------------------------------------------- items and their files


def test_items_and_files(house: Path) -> None:
    searched = Searcher(house)
    assert [row["id"] for row in searched.items(ids=["rose", "nosuch", "film"])] == ["rose", "film"]
    assert searched.items(ids=["rose"])[0]["text"] == ["red rose"]
    assert searched.items(ids=[]) == []
    files = searched.files_of(["rose", "nosuch"])
    assert list(files) == [("rose", "image/0")], "its text stands in the table"
    path, digest = files["rose", "image/0"]
    assert (path.name, digest) == ("rose.png", digest_file(path))
    assert searched.files_of([]) == {}
    moments = searched.moments_of("film")
    assert {one["slot"] for one in moments} == {"video/0"}
    starts = [one["start"] for one in moments]
    assert starts[0] == 0 and len(starts) > 1 and starts == sorted(set(starts))
    assert searched.moments_of("rose") == []
    status = searched.status()
    assert status.items == 8
    assert status.embeddings == {"image": 4, "text": 6, "audio": 1, "video": 1}
    assert status.as_dict()["spaces"] == ["start"]


# -------------------------------------------------------------------------------------------------- what has changed


def more(made: Path, tmp_path: Path) -> Path:
    return table(tmp_path / "more.jsonl", [{"id": "new", "text": "zebra"}])


def test_refresh_sees_what_was_added_removed_and_aligned(made: Path, shades: Path, tmp_path: Path) -> None:
    searched = Searcher(made)
    assert searched.refresh() is False
    chiasm.add([more(made, tmp_path)], to=made)
    assert ids(searched.search(ask("zebra"), SearchOptions(k=1))) != ["new"]
    assert searched.refresh() is True
    assert ids(searched.search(ask("zebra"), SearchOptions(k=1))) == ["new"]
    assert searched.refresh() is False
    chiasm.remove(made, where="id = 'new'")
    assert searched.refresh() is True
    assert "new" not in ids(searched.search(ask("zebra"), SearchOptions(k=1000)))
    learn(made, "judged", scores_of(shades))
    assert searched.refresh() is True
    result = searched.search(ask("red"), SearchOptions(min_probability="auto"))
    assert (result.space, result.found) == ("judged", True)
    assert searched.refresh() is False


def test_refresh_sees_a_space_that_was_learned_anew_under_its_name(made: Path) -> None:
    learn(made, "judged")
    for named in (None, "judged"):
        searched = Searcher(made, space=named)
        created = searched.space.created
        learn(made, "judged")
        assert searched.refresh() is True
        assert searched.space.created > created
        assert searched.refresh() is False


def test_a_space_asked_for_by_name_stays(made: Path) -> None:
    searched = Searcher(made, space="start")
    learn(made, "judged")
    assert searched.refresh() is False
    assert searched.search(ask("red")).space == "start"


@pytest.mark.race
def test_threads_search_while_the_collection_changes(made: Path, shades: Path) -> None:
    learn(made, "judged", scores_of(shades))
    searched = Searcher(made)
    queries = [words_of(parts) for parts in mixtures(2)]
    expected = {query: searched.search(ask(query), SearchOptions(modality="image", k=1)) for query in queries}
    stop = threading.Event()

    def change() -> None:
        try:
            for name in ("other", "judged", "other"):
                learn(made, name, scores_of(shades))
                searched.refresh()
        finally:
            stop.set()

    def many(query: str) -> list[str]:
        found = ids(searched.search(ask(query), SearchOptions(modality="image", k=1)))
        while not stop.is_set():
            found += ids(searched.search(ask(query), SearchOptions(modality="image", k=1)))
        return found

    with ThreadPoolExecutor(5) as pool:
        changing = pool.submit(change)
        results = list(pool.map(many, queries))
        changing.result()
    for query, found in zip(queries, results, strict=True):
        assert set(found) == set(ids(expected[query])), query


@pytest.mark.race
def test_threads_use_the_words_at_once(made: Path) -> None:
    searched = Searcher(made)
    expected = ids(Searcher(made).search(ask("red red green"), SearchOptions(hybrid=True)))
    with ThreadPoolExecutor(4) as pool:
        results = list(
            pool.map(lambda _: ids(searched.search(ask("red red green"), SearchOptions(hybrid=True))), range(12))
        )
    assert results == [expected] * 12


# ------------------------------------------------------------------------------------------------------------- scores


def test_scores_are_kept_whole(made: Path, shades: Path) -> None:
    model = scores_of(shades)
    learn(made, "judged", model)
    again = scores_of(made)
    fields, arrays = model.state()
    assert again.state()[0] == fields
    assert set(again.state()[1]) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(again.state()[1][name], array)


def test_scores_of_a_space_that_was_replaced_are_none(made: Path, shades: Path) -> None:
    learn(made, "judged", scores_of(shades))
    learn(made, "judged")
    assert load_space(made / "spaces" / "judged").scores is None
    assert Searcher(made).search(ask("red")).found is None
    chiasm.revert(made)
    assert Searcher(made).search(ask("red")).found is True
    with pytest.raises(SpaceError, match="no earlier space"):
        chiasm.revert(made, space="start")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("scores.json", b"{"),
        ("scores.json", b"\xff\xfe"),
        ("scores.json", b"[]"),
        ("scores.json", b'{"format_version": 99, "pairs": []}'),
        ("scores.json", b'{"format_version": 1, "pairs": [{}]}'),
        ("scores.safetensors", b"short"),
        ("scores.safetensors", b""),
    ],
)
def test_scores_that_are_damaged(made: Path, shades: Path, name: str, content: bytes) -> None:
    learn(made, "judged", scores_of(shades))
    (path,) = (made / "spaces" / "judged").glob(f"*/{name}")
    path.write_bytes(content)
    with pytest.raises(SpaceError, match="damaged"):
        Searcher(made)


def test_hubs_are_held_back_as_the_scores_say(made: Path) -> None:
    """The order is that of all rows judged at once, and the same when what was computed is used again."""
    searched = Searcher(made)
    rows = placed_vectors(searched.collection, searched.space)
    owners = np.array([owner_number(item) for item in rows.items])
    model = ScoreModel(
        {
            ("text", kind): PairScores.fit(
                rows.vectors[rows.modalities == kind],
                rows.vectors[rows.modalities == "text"],
                gallery_owners=owners[rows.modalities == kind],
                bank_owners=owners[rows.modalities == "text"],
                preparation=Preparation(hub_strength=1.0),
            )
            for kind in ("image", "text")
        }
    )
    learn(made, "hubs", model)
    assert searched.refresh() is True
    offsets = np.zeros(len(owners), np.float32)
    for (_, kind), pair in model.pairs.items():
        mine = rows.modalities == kind
        offsets[mine] = pair.offsets(rows.vectors[mine], owners[mine])
    moved = 0
    for words in ("red green", "blue", "red green"):
        asked: Any = (unit(Text(words)), "text", rows.vectors, rows.modalities.tolist())
        judged, plainly = model.judge(*asked, offsets=offsets), model.judge(*asked, offsets=np.zeros_like(offsets))
        moved += int((judged.order != plainly.order).sum())
        best = {name: judged.standard[rows.items == name].max() for name in rows.items.tolist()}
        result = searched.search(ask(words), SearchOptions(k=1000))
        assert set(ids(result)) == set(best)
        assert (np.diff([best[name] for name in ids(result)]) < 1e-4).all(), "best first"
        assert result.found is None
    assert moved > 10, "the correction matters"
