"""How much words count in hybrid search: learned from thumbs, kept if it is better, and followed by every search."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from painter import painted, painters, picture, place_of, table

import chiasm
from chiasm import cli, encoders
from chiasm.errors import CollectionError, LabelError, SpaceError
from chiasm.retrieval.hybrid import reciprocal_rank_fusion, weighted_fusion
from chiasm.store.collection import Collection
from chiasm.store.feedback import FeedbackTable
from chiasm.types import Image, Text
from chiasm.verbs.learn import judged
from chiasm.verbs.search import Query, Searcher, SearchResult, load_weight, save_weight

FLOWERS = (
    "tulip", "daisy", "poppy", "violet", "orchid", "lotus", "jasmine", "iris",
    "peony", "dahlia", "clover", "aster", "lily", "begonia", "zinnia", "lupin",
)  # fmt: skip
OURS = tuple(word for word in FLOWERS if place_of(word) != place_of("thing"))  # no text is near to them
UNSEEN = OURS[-1]
REDS = {f"r{number}" for number in range(8)}
FILE = Path("spaces") / "start" / "fusion.json"

Right = Literal["words", "vectors", "none"]


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "resolve", lambda *_, **__: painters())


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Eight red items whose motto is "stone", and of every flower two blue items with its name as their motto.

    A motto is a column: full text knows it (and ids) and vectors do not. Of two more red things nothing but the picture is there.
    """
    root = tmp_path_factory.mktemp("flowers")
    rows: list[dict[str, Any]] = []
    for number in range(8):
        image = picture(root / f"r{number}.png", (90, number, 0))
        rows.append({"id": f"r{number}", "image": image, "text": "thing", "motto": "stone"})
    for number, flower in enumerate(OURS):
        for which in (0, 1):
            image = picture(root / f"{flower}-{which}.png", (number, 30 * which, 90))
            rows.append({"id": f"{flower}-{which}", "image": image, "text": "thing", "motto": flower})
    rows += [{"id": f"b{number}", "image": picture(root / f"{number}.png", (90, 0, 10 + number))} for number in (0, 1)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "resolve", lambda *_, **__: painters())
        chiasm.add([table(root / "flowers.jsonl", rows)], to=root / "collection")
        Searcher(root / "collection")  # makes the start
        yield root / "collection"


@pytest.fixture
def made(base: Path, tmp_path: Path) -> Path:
    """A copy of a test's own."""
    return Path(shutil.copytree(base, tmp_path / "collection"))


def query_of(flower: str, right: Right) -> str:
    """Words for which reciprocal ranks go wrong: they put red things first, or flowers, where the others are right."""
    return {"words": f"red {flower} stone", "vectors": f"red {flower}", "none": flower}[right]


def thumb(collection: Path, flower: str, right: Right, query: str | None = None) -> None:
    flowers, reds = [f"{flower}-0", f"{flower}-1"], [f"r{number}" for number in range(4)]
    up, down = (reds, flowers) if right == "vectors" else (flowers, reds)
    asked = query_of(flower, right) if query is None else query
    chiasm.feedback(collection, up, verdict="up", query=asked)
    chiasm.feedback(collection, down, verdict="down", query=asked)


def search(collection: Path, words: str, **options: Any) -> SearchResult:
    return Searcher(collection).search(Query((Text(words),)), k=100, hybrid=True, **options)


def ids(result: SearchResult) -> list[str]:
    return [hit.id for hit in result.hits]


def kept(collection: Path) -> Any:
    return json.loads((collection / FILE).read_text(encoding="utf-8"))


# -------------------------------------------------------------------------------------------------------- what is learned


def test_words_that_are_right_get_a_high_weight_and_search_follows(made: Path) -> None:
    for flower in OURS[:10]:
        thumb(made, flower, "words")
    thumb(made, OURS[10], "vectors")
    asked = query_of(UNSEEN, "words")
    before = search(made, asked)
    assert (before.fusion, before.word_weight) == ("ranks", None)
    assert ids(before)[0] in REDS

    report = chiasm.weigh(made)
    assert (report.space, report.kept, report.queries, report.silent) == ("start", True, 11, 0)
    assert report.weight > 0.5
    assert report.precision["weight"] > 0.9 > 0.5 > max(report.precision["ranks"], report.precision["vectors"])
    assert report.precision["words"] == pytest.approx(10 / 11), "for the last query they find nothing that is right"
    assert report.gain == pytest.approx(report.precision["weight"] - report.precision["ranks"])
    assert report.gain > report.standard_error > 0
    assert f"{report.precision['weight']:.3f} and reciprocal ranks {report.precision['ranks']:.3f}" in report.why

    after = search(made, asked)
    assert (after.fusion, after.word_weight) == ("weight", report.weight)
    assert set(ids(after)[:2]) == {f"{UNSEEN}-0", f"{UNSEEN}-1"}
    assert after.as_dict()["word_weight"] == report.weight
    assert kept(made)["precision"] == report.precision


def test_vectors_that_are_right_get_a_high_weight(made: Path) -> None:
    for flower in OURS[:10]:
        thumb(made, flower, "vectors")
    thumb(made, OURS[10], "words")
    asked = query_of(UNSEEN, "vectors")
    assert set(ids(search(made, asked))[:2]) == {f"{UNSEEN}-0", f"{UNSEEN}-1"}
    report = chiasm.weigh(made)
    assert report.kept
    assert report.weight < 0.5
    assert report.precision["vectors"] > report.precision["ranks"]
    assert set(ids(search(made, asked))[:4]) <= REDS | {"b0", "b1"}


def test_without_a_difference_ranks_stay_and_an_older_weight_goes(made: Path) -> None:
    for flower in OURS[:10]:
        thumb(made, flower, "none")
    save_weight(made / "spaces" / "start", Searcher(made).space, 0.9)
    report = chiasm.weigh(made)
    assert (report.kept, report.gain, report.standard_error) == (False, 0, 0)
    assert report.precision["ranks"] == report.precision["weight"] == 1
    assert (
        "precision of 1.000 and reciprocal ranks 1.000: a gain of +0.000, not more than its standard error"
        in report.why
    )
    assert not (made / FILE).exists()
    assert search(made, OURS[0]).fusion == "ranks"


def test_learning_and_search_fuse_the_same_rankings(made: Path) -> None:
    searched = Searcher(made)
    for flower in (OURS[3], UNSEEN):
        for asked in (query_of(flower, "words"), query_of(flower, "vectors")):
            both = searched.rankings(asked)
            for weight in (None, 0.0, 0.15, 0.8, 1.0):
                save_weight(made / "spaces" / "start", searched.space, weight)
                searched.refresh()
                fused = (
                    reciprocal_rank_fusion(both)
                    if weight is None
                    else weighted_fusion(both, weights=(1 - weight, weight))
                )
                result = searched.search(Query((Text(asked),)), k=100, hybrid=True)
                assert ids(result) == [searched.names[row] for row in fused.rows.tolist()]


def test_scores_of_vectors_are_what_orders_hits(made: Path) -> None:
    """Cosines where nothing was learned; log-odds, by which probabilities rise, where they were."""
    searched = Searcher(made)
    hits = {hit.id: hit.score for hit in searched.search(Query((Text("red stone"),)), k=100).hits}
    first, second = searched.rankings("red stone")
    assert first.covers is None
    assert {
        searched.names[row]: score for row, score in zip(first.rows.tolist(), first.scores.tolist(), strict=True)
    } == (pytest.approx(hits))
    assert second.covers is not None
    assert {name for name, covers in zip(searched.names, second.covers, strict=True) if not covers} == {
        "b0",
        "b1",
    }


def test_scores_are_log_odds_where_hits_have_probabilities(tmp_path: Path) -> None:
    """They rise with similarity as cosines do, where probabilities jump from 0 to 1."""
    chiasm.add([painted(tmp_path / "media", 5)], to=tmp_path / "collection")
    chiasm.align(tmp_path / "collection", method="none", name="judged")
    searched = Searcher(tmp_path / "collection")
    for words in ("red", "red green green"):
        chances = {hit.id: hit.probability for hit in searched.search(Query((Text(words),)), k=100).hits}
        first, _ = searched.rankings(words)
        given = np.array([chances[searched.names[row]] for row in first.rows])
        np.testing.assert_allclose(1 / (1 + np.exp(-first.scores)), given, atol=1e-9)
        found = search(tmp_path / "collection", words, min_probability="auto")
        assert (found.fusion, found.found) == ("ranks", True)


def test_media_without_words_keep_their_place_with_a_weight(made: Path) -> None:
    save_weight(made / "spaces" / "start", Searcher(made).space, 0.5)
    found = ids(search(made, f"red {UNSEEN}"))
    places = [found.index(f"b{number}") for number in (0, 1)]
    assert max(places) < 12, "beside the red things that have words, of which none matches"
    assert set(found[:12]) == REDS | {f"{UNSEEN}-0", f"{UNSEEN}-1", "b0", "b1"}


# -------------------------------------------------------------------------------------------------- what says something


def test_too_few_queries(made: Path) -> None:
    for flower in OURS[:9]:
        thumb(made, flower, "words")
    thumb(made, OURS[0], "words", f"  RED {OURS[0]}  Stone ")  # the same query
    chiasm.feedback(made, ["r0"], verdict="up", query="red")  # nothing is wrong
    chiasm.feedback(made, ["r0"], verdict="down", query="blue")  # nothing is right
    with pytest.raises(LabelError, match=r"at least 10 different queries.*there are 9, and 2 more.*--verdict down"):
        chiasm.weigh(made)
    assert not (made / FILE).exists()
    thumb(made, OURS[9], "words")
    assert chiasm.weigh(made).queries == 10


def test_no_thumbs_at_all(made: Path) -> None:
    with pytest.raises(LabelError, match="there are 0, and 0 more that say nothing"):
        chiasm.weigh(made)


def test_thumbs_on_items_that_are_gone(made: Path) -> None:
    for flower in OURS[:11]:
        thumb(made, flower, "words")
    chiasm.remove(made, where=f"motto = '{OURS[0]}'")
    report = chiasm.weigh(made)
    assert (report.queries, report.silent) == (10, 1)
    chiasm.remove(made, where=f"motto = '{OURS[1]}'")
    with pytest.raises(LabelError, match="there are 9, and 2 more that say nothing"):
        chiasm.weigh(made)
    assert kept(made)["queries"] == 10, "what was kept stays"


def test_queries_that_cannot_be_embedded_say_nothing(made: Path) -> None:
    for flower in OURS[:10]:
        thumb(made, flower, "words")
    thumb(made, OURS[10], "words", "   ")
    assert (chiasm.weigh(made).queries, chiasm.weigh(made).silent) == (10, 1)


def test_queries_that_are_equal_but_for_case_are_one_group(made: Path) -> None:
    thumb(made, OURS[0], "words")
    thumb(made, OURS[0], "words", f"Red\t{OURS[0]} STONE")
    thumb(made, OURS[1], "words")
    searched = Searcher(made)
    found = judged(FeedbackTable(Collection.open(made)).rated_queries(), searched.rankings, searched.names)
    assert found.groups == (f"red {OURS[0]} stone", f"red {OURS[0]} stone", f"red {OURS[1]} stone")
    assert (found.different, found.silent) == (2, 0)


def test_a_collection_or_a_space_that_cannot_be_searched_in_words(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpaceError, match="has no space 'none'"):
        chiasm.weigh(made, space="none")
    thumb(made, OURS[0], "words")
    chiasm.remove(made, where="id <> 'nothing'")
    with pytest.raises(LabelError, match="there are 0"):
        chiasm.weigh(made)
    with pytest.raises(CollectionError, match="has no embedded files"):
        Searcher(made).rankings("red")
    monkeypatch.setattr(encoders, "resolve", lambda *_, **__: painters("image"))
    with pytest.raises(SpaceError, match="has image, not text"):
        chiasm.weigh(made)


# ------------------------------------------------------------------------------------------------------ what is kept


def test_what_the_weight_is_for(made: Path) -> None:
    """It was learned for the scores that the space takes by itself."""
    save_weight(made / "spaces" / "start", Searcher(made).space, 0.25)
    searched = Searcher(made)

    def way(query: Query, **options: Any) -> tuple[str | None, float | None]:
        result = searched.search(query, **options)
        return result.fusion, result.word_weight

    red = Query((Text("red"),))
    assert way(red) == (None, None)
    assert way(red, hybrid=True) == ("weight", 0.25)
    assert way(replace(red, minus=(Text("blue"),)), hybrid=True) == ("weight", 0.25)
    assert way(red, hybrid=True, metric="cosine") == ("ranks", None)
    assert way(Query((Image(np.full((8, 8, 3), 9, np.uint8)),)), hybrid=True) == (None, None)
    assert way(Query((Text("unheard"),)), hybrid=True) == ("weight", 0.25)
    assert ids(search(made, "unheard")) == ids(replace(searched.search(Query((Text("unheard"),)), k=100)))


def test_refresh_sees_a_weight_that_came_or_went(made: Path) -> None:
    searched = Searcher(made)
    assert searched.search(Query((Text("red"),)), hybrid=True).fusion == "ranks"
    for weight, fusion in ((0.4, "weight"), (0.6, "weight"), (None, "ranks")):
        save_weight(made / "spaces" / "start", searched.space, weight)
        assert searched.refresh() is True
        result = searched.search(Query((Text("red"),)), hybrid=True)
        assert (result.fusion, result.word_weight) == (fusion, weight)
        assert searched.refresh() is False


def test_pages_follow_each_other(made: Path) -> None:
    save_weight(made / "spaces" / "start", Searcher(made).space, 0.35)
    searched = Searcher(made)
    query = Query((Text(query_of(UNSEEN, "words")),))
    pages = [ids(searched.search(query, k=5, offset=offset, hybrid=True)) for offset in range(0, 60, 5)]
    assert [name for page in pages for name in page] == ids(search(made, query_of(UNSEEN, "words")))


def test_a_space_made_anew_starts_without(made: Path) -> None:
    folder = made / "spaces" / "start"
    space = Searcher(made).space
    save_weight(folder, space, 0.4)
    assert load_weight(folder, space) == 0.4
    other = replace(space, tensors={**space.tensors, "more": np.ones(3, np.float32)})
    other.save(folder)
    assert load_weight(folder, other) is None
    assert search(made, "red").fusion == "ranks"
    space.save(folder)
    assert search(made, "red").fusion == "weight", "the very same again"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "JSONDecodeError"),
        ("[1]", "TypeError"),
        ("{}", "KeyError: 'format_version'"),
        ('{"format_version": 2}', "it has format version 2 and this chiasm reads 1"),
        ('{"format_version": 1, "space": "x", "weight": 1.5}', "no number from 0 to 1 but 1.5"),
        ('{"format_version": 1, "space": "x", "weight": true}', "no number from 0 to 1 but True"),
        ('{"format_version": 1, "space": "x", "weight": NaN}', "no number from 0 to 1 but nan"),
    ],
)
def test_a_damaged_weight_is_in_the_way_of_hybrid_search_alone(made: Path, content: str, why: str) -> None:
    for flower in OURS[:10]:
        thumb(made, flower, "words")
    (made / FILE).write_text(content, encoding="utf-8")
    with pytest.raises(
        SpaceError, match=f"fusion.json cannot be read.*{why}.*Run chiasm weigh again, or delete the file"
    ):
        search(made, "red")
    assert Searcher(made).search(Query((Text("red"),))).hits
    assert search(made, "red", metric="cosine").hits
    assert chiasm.weigh(made).kept
    assert search(made, "red").fusion == "weight"


def test_a_weight_that_cannot_be_written(made: Path) -> None:
    with pytest.raises(SpaceError, match=r"the weight of words cannot be written to .*missing.fusion\.json"):
        save_weight(made / "missing", Searcher(made).space, 0.5)


# -------------------------------------------------------------------------------------------------- the command line


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    cli.app([str(argument) for argument in arguments], standalone_mode=False)
    return capsys.readouterr().out


def test_on_the_command_line(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flower in OURS[:10]:
        thumb(made, flower, "words")
    chiasm.feedback(made, ["r0"], verdict="up", query="red")
    lines = run(capsys, "weigh", made).splitlines()
    assert lines[0] == "10 different queries with thumbs in the space 'start'; 1 more say nothing about the weight"
    assert [line.split()[0] for line in lines[2:6]] == ["vectors", "words", "reciprocal", "learned"]
    said = json.loads(run(capsys, "weigh", made, "--space", "start", "--json"))
    assert said == chiasm.weigh(made).as_dict()
    last = " ".join(lines[6:])
    assert last.startswith("Kept: on left-out queries a learned weight has")
    assert last.endswith(f"{said['weight']:.2f} for words, {1 - said['weight']:.2f} for vectors.")
    found = json.loads(run(capsys, "search", made, "red", "--hybrid", "--json"))
    assert (found["fusion"], found["word_weight"]) == ("weight", said["weight"])
    assert "weight" not in run(capsys, "search", made, "red", "--hybrid")


def test_on_the_command_line_where_ranks_stay(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flower in OURS[:10]:
        thumb(made, flower, "none")
    last = run(capsys, "weigh", made).splitlines()[-1]
    assert last.startswith("Not kept: ")
    assert last.endswith("search --hybrid goes by reciprocal ranks.")


def test_too_few_on_the_command_line(
    made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["chiasm", "weigh", str(made)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    assert capsys.readouterr().err.startswith(
        "chiasm: to learn how much words count takes at least 10 different queries"
    )


def test_enough_flowers() -> None:
    """For the tests above."""
    needed: Sequence[str] = OURS[:12]
    assert len(needed) == 12
