"""Questions with known answers: what `evaluate` says of them is what search does, and bad files are answered with what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from media_files import Film
from painter import COLOURS, mixtures, painted, painters, picture, sound, table, words_of

import chiasm
from chiasm import encoders
from chiasm.alignment.alignment import LearnedMap
from chiasm.errors import ChiasmError, CollectionError, ManifestError, SpaceError
from chiasm.evaluation.intervals import wilson_interval
from chiasm.evaluation.moments import Span, moment_metrics
from chiasm.store.collection import Collection
from chiasm.types import Modality, Text
from chiasm.verbs import questions
from chiasm.verbs.query import Query, SearchOptions
from chiasm.verbs.questions import ask_moments, read_moments, read_questions
from chiasm.verbs.search import Searcher
from chiasm.verbs.spaces import LeftOut, SavedSpace, save_space, start_of

OFF_TOPIC = ("zebra", "quartz lamp", "tax report", "board meeting", "kernel", "red", "password reset", "green invoice")


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
def shades(patched: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 61 mixtures with their words; what scores are worth was learned from those that are not mostly blue."""
    root = tmp_path_factory.mktemp("shades")
    chiasm.add([painted(root / "media", 6)], to=root / "collection")
    chiasm.align(root / "collection", method="none", name="judged", where="most <> 'blue'")
    return root / "collection"


@pytest.fixture(scope="module")
def tapes(patched: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sounds whose every second is a colour, and a film that is red and then blue."""
    root = tmp_path_factory.mktemp("tapes")
    media = root / "media"
    media.mkdir()
    (media / "film.mp4").write_bytes(Film(scenes=(COLOURS["red"], COLOURS["blue"]), frames=100).written("mp4"))
    rows = [
        {"id": "a", "audio": sound(media / "a.wav", "red", "green", "green"), "reel": 1},
        {"id": "b", "audio": sound(media / "b.wav", "blue", "blue", "green"), "reel": 1},
        {"id": "short", "audio": sound(media / "short.wav", "red"), "reel": 2},
        {"id": "film", "video": str(media / "film.mp4"), "reel": 2},
        {"id": "note", "text": "a note", "reel": 2},
    ]
    chiasm.add([table(root / "tapes.jsonl", rows)], to=root / "collection")
    return root / "collection"


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def off_topic(folder: Path) -> Path:
    return written(folder / "off.txt", "\n".join(OFF_TOPIC))


# ----------------------------------------------------------------------------------------------------------- off topic


def test_questions_are_answered_as_search_answers_them(shades: Path, tmp_path: Path) -> None:
    result = chiasm.evaluate(shades, off_topic=off_topic(tmp_path))
    found = result.metrics["nothing_found"]
    searcher = Searcher(shades)

    def answers(words: str) -> bool:
        asked = Query((Text(words),))
        return bool(searcher.search(asked, SearchOptions(modality="image", min_probability="auto")).hits)

    blue = [parts for parts in mixtures(6) if int(np.argmax(parts)) == 2]
    kept = [answers(words_of(parts)) for parts in blue]
    false = [answers(words) for words in OFF_TOPIC]
    assert 0 < sum(false) < len(false), "red is no off-topic question, and zebras are not there"
    for name, told in (("answered", kept), ("false_hits", false)):
        expected = wilson_interval(sum(told), len(told))
        assert (found[name]["estimate"], found[name]["low"], found[name]["high"]) == pytest.approx(
            (expected.estimate, expected.low, expected.high)
        )
    assert (found["answerable"], found["off_topic"], found["searched"]) == (len(blue), len(OFF_TOPIC), "image")
    wrong = {one["question"] for one in found["answered_falsely"]}
    assert wrong == {words for words, told in zip(OFF_TOPIC, false, strict=True) if told}
    assert "red" in wrong
    assert set(found["lost"]) == {words_of(parts) for parts, told in zip(blue, kept, strict=True) if not told}
    threshold = searcher.search(Query((Text("red"),)), SearchOptions(modality="image")).threshold
    assert found["threshold"] == threshold
    assert result.seen == 0
    assert f"{len(blue)} pairs of image and text that the space was not trained on" in result.measured
    assert result.measured.endswith("; 8 questions without an answer")
    assert set(result.metrics) >= {"text_to_image", "image_to_text", "by_modality"}, "pairs are measured as well"


def test_probabilities_are_measured_on_the_hits_of_all_questions(shades: Path, tmp_path: Path) -> None:
    found = chiasm.evaluate(shades, off_topic=off_topic(tmp_path)).metrics["nothing_found"]["relevance"]
    searcher = Searcher(shades)
    chances, right = [], []
    blue = [parts for parts in mixtures(6) if int(np.argmax(parts)) == 2]
    asked = {words_of(parts): "-".join(map(str, parts)) for parts in blue} | dict.fromkeys(OFF_TOPIC, "none")
    for words, item in asked.items():
        for hit in searcher.search(Query((Text(words),)), SearchOptions(modality="image")).hits:
            chances.append(hit.probability)
            right.append(hit.id == item)
    assert found["hits"] == len(chances) == 10 * len(asked)
    brier = np.mean((np.array(chances, float) - np.array(right)) ** 2)
    assert found["brier"] == pytest.approx(brier, rel=1e-4)
    assert sum(one["count"] for one in found["equal_counts"]) == len(chances)
    assert sum(one["count"] * one["accuracy"] for one in found["reliability"]) == pytest.approx(sum(right))


def test_equal_texts_are_asked_once_and_any_of_their_files_is_right(shades: Path, tmp_path: Path) -> None:
    made = Path(shutil.copytree(shades, tmp_path / "collection"))
    again = [
        {"id": f"again{n}", "image": picture(tmp_path / f"{n}.png", parts), "text": "blue", "most": "blue"}
        for n, parts in enumerate([(1, 1, 90), (1, 2, 90)])
    ]
    chiasm.add([table(tmp_path / "again.jsonl", again)], to=made)
    once = chiasm.evaluate(shades, off_topic=off_topic(tmp_path)).metrics["nothing_found"]
    more = chiasm.evaluate(made, off_topic=off_topic(tmp_path)).metrics["nothing_found"]
    assert more["answerable"] == once["answerable"]
    rights = [sum(b["count"] * b["accuracy"] for b in one["relevance"]["reliability"]) for one in (once, more)]
    assert rights[1] == pytest.approx(rights[0] + 2), "the two new pictures of blue"


def test_of_many_texts_some_are_drawn(shades: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "MOST_ASKED", 5)
    found = [chiasm.evaluate(shades, off_topic=off_topic(tmp_path)).metrics["nothing_found"] for _ in range(2)]
    assert found[0]["answerable"] == 5
    assert found[0] == found[1]


def test_a_condition_holds_for_what_is_found(shades: Path, tmp_path: Path) -> None:
    found = chiasm.evaluate(shades, off_topic=off_topic(tmp_path), where="most = 'blue'").metrics["nothing_found"]
    assert {one["id"].split("-")[2] for one in found["answered_falsely"]} <= {"1", "2", "3", "4", "5", "6"}
    with pytest.raises(CollectionError, match="cannot be used"):
        chiasm.evaluate(shades, off_topic=off_topic(tmp_path), where="most = = 1")


def test_without_probabilities_nobody_can_tell(shades: Path, tapes: Path, tmp_path: Path) -> None:
    off = off_topic(tmp_path)
    with pytest.raises(SpaceError, match="no probabilities"):
        chiasm.evaluate(shades, off_topic=off, space="start")
    with pytest.raises(SpaceError, match="no item has both image and text"):
        chiasm.evaluate(tapes, off_topic=off)
    rows = [
        {"id": str(n), "image": picture(tmp_path / f"{n}.png", parts), "audio": sound(tmp_path / f"{n}.wav", "red")}
        for n, parts in enumerate(mixtures(2))
    ]
    chiasm.add([table(tmp_path / "t.jsonl", rows)], to=tmp_path / "collection")
    with pytest.raises(SpaceError, match="--pairs image,text"):
        chiasm.evaluate(tmp_path / "collection", pairs=("image", "audio"), off_topic=off)


def test_questions_are_read_line_by_line(tmp_path: Path) -> None:
    text = "\ufeffone question\r\n\n  \nanother one  \none question\n"
    for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
        (tmp_path / "q.txt").write_bytes(text.encode(encoding))
        assert read_questions(tmp_path / "q.txt") == ("one question", "another one")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        (b" \n\n", "no question"),
        (b"caf\xe9\n", "UTF-8"),
        (b"1\n2\n3\n4\n5\n6\n", "at most 5"),
        (b"x" * 41, "at most 40"),
    ],
)
def test_bad_files_of_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, message: str
) -> None:
    monkeypatch.setattr(questions, "MOST_QUESTIONS", 5)
    monkeypatch.setattr(questions, "MOST_BYTES", 40)
    if content is not None:
        (tmp_path / "q.txt").write_bytes(content)
    with pytest.raises(ManifestError, match=message) as caught:
        read_questions(tmp_path / "q.txt")
    assert "q.txt" in str(caught.value)


# ------------------------------------------------------------------------------------------------------------ moments

HEAD = "query,item,start,end\n"
TABLE = """query,item,start,end,remark
red,a,0,1,
blue,b,0,1,two answers
blue,b,1,2,
green,a,0.0,1.0,wrong
red.png,film,0,2,
"""


def moments(folder: Path, text: str = TABLE) -> Path:
    picture(folder / "red.png", (1, 0, 0))
    return written(folder / "moments.csv", text)


def test_moments_are_measured_on_the_spans_that_search_gives(tapes: Path, tmp_path: Path) -> None:
    result = chiasm.evaluate(tapes, moments=moments(tmp_path))
    found = result.metrics["moments"]
    assert set(result.metrics) == {"moments"}, "pairs are not asked for"
    assert result.measured == "4 queries for moments of 3 files"
    assert (found["queries"], found["items"]) == (4, 3)
    searcher = Searcher(tapes)
    modalities: tuple[Modality, ...] = ("audio", "video")
    predicted: dict[str, list[Span]] = {}
    for query in ("red", "blue", "green", "red.png"):
        asked = Query((searcher.open(tmp_path / query) if query == "red.png" else Text(query),))
        hits = [hit for modality in modalities for hit in searcher.search(asked, SearchOptions(modality=modality)).hits]
        assert {hit.id for hit in hits} == {"a", "b", "short", "film"}
        spans = [(part.score, Span(hit.id, part.start, part.end)) for hit in hits for part in hit.moments]
        spans += [(hit.score, Span(hit.id, 0, 1)) for hit in hits if hit.id == "short"]
        predicted[query] = [span for _, span in sorted(spans, key=lambda pair: -pair[0])]
    truth = {
        "red": [Span("a", 0, 1)],
        "blue": [Span("b", 0, 1), Span("b", 1, 2)],
        "green": [Span("a", 0, 1)],
        "red.png": [Span("film", 0, 2)],
    }
    expected = moment_metrics(predicted, truth).as_dict()
    assert {name: found[name] for name in expected if name.startswith("r@5")} == {
        name: value for name, value in expected.items() if name.startswith("r@5")
    }, "of equal scores one or another may come first, but all of them are among the first five"
    assert expected["r@5_iou@0.5"] >= 0.75


def test_a_moment_is_right_in_its_own_recording_only(tapes: Path, tmp_path: Path) -> None:
    """Words that one recording alone holds are found at once, and nowhere else."""
    rows = "query;item;start;end\nblue blue green;b;0;3\n"
    known = read_moments(moments(tmp_path, rows), Collection.open(tapes))
    assert [(one.query, one.path, one.item, one.start, one.end) for one in known] == [
        ("blue blue green", None, "b", 0.0, 3.0)
    ]
    only = "reel = 1"
    found = {
        item: chiasm.evaluate(
            tapes, moments=moments(tmp_path, f"query,item,start,end\nblue,{item},0,1\nblue,{item},1,2\n"), where=only
        ).metrics["moments"]
        for item in ("a", "b")
    }
    assert found["b"]["r@1_iou@0.7"] == found["b"]["mean_iou"] == 1
    assert found["a"]["r@1_iou@0.3"] == found["a"]["mean_iou"] == 0


def test_a_file_without_moments_is_one_moment(tapes: Path, tmp_path: Path) -> None:
    file = moments(tmp_path, HEAD + "red,short,0,1\n")
    found = chiasm.evaluate(tapes, moments=file, where="id = 'short'").metrics["moments"]
    assert found["r@1_iou@0.7"] == 1
    assert found["mean_iou"] == pytest.approx(1, abs=0.01)
    assert found["intervals"] == {}, "of one recording there are none"


def test_intervals_keep_recordings_together(tapes: Path, tmp_path: Path) -> None:
    searcher = Searcher(tapes)
    known = read_moments(moments(tmp_path), searcher.collection)
    asked = ask_moments(searcher, known)
    groups = ["a", "b", "a", "film"]
    assert dict(asked.intervals) == asked.metrics.intervals(groups=groups)
    joined = read_moments(
        moments(tmp_path, HEAD + "red,a,0,1\nred,b,0,1\nblue,b,0,1\ngreen,a,1,2\n"), searcher.collection
    )
    assert dict(ask_moments(searcher, joined).intervals) == {}, "red joins both recordings"


def test_a_condition_leaves_moments_out(tapes: Path, tmp_path: Path) -> None:
    file = moments(tmp_path)
    assert chiasm.evaluate(tapes, moments=file, where="reel = 1").metrics["moments"]["queries"] == 3
    with pytest.raises(CollectionError, match="no item of the table of moments meets the condition 'reel = 3'"):
        chiasm.evaluate(tapes, moments=file, where="reel = 3")


def test_a_space_without_sounds_has_no_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "resolve", lambda *_, **__: painters("image", "text"))
    rows = [{"id": "a", "text": "red", "audio": sound(tmp_path / "a.wav", "red")}]
    chiasm.add([table(tmp_path / "t.jsonl", rows)], to=tmp_path / "collection")
    with pytest.raises(SpaceError, match=r"the space 'start' has image, text, and so no moments"):
        chiasm.evaluate(tmp_path / "collection", moments=moments(tmp_path, HEAD + "red,a,0,1\n"))


def test_a_recording_that_is_gone(tapes: Path, tmp_path: Path) -> None:
    row = {"id": "gone", "audio": sound(tmp_path / "gone.wav", "red")}
    made = Path(shutil.copytree(tapes, tmp_path / "collection"))
    chiasm.add([table(tmp_path / "t.jsonl", [row])], to=made)
    (tmp_path / "gone.wav").unlink()
    file = moments(tmp_path, HEAD + "red,gone,0,1\n")
    with pytest.raises(CollectionError, match=r"gone\.wav .* cannot be opened: the file does not exist"):
        chiasm.evaluate(made, moments=file)


def test_moments_are_read_as_all_tables_are(tapes: Path, tmp_path: Path) -> None:
    text = "query,item,start,end,remark\nred,a,0,1,x\n\nno words,b,0.5,2,\n"
    rows = [
        {"query": "red", "item": "a", "start": 0, "end": 1},
        {"query": "no words", "item": "b", "start": 0.5, "end": 2.0},
    ]
    written(tmp_path / "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    written(tmp_path / "t.csv", text)
    written(tmp_path / "t.tsv", text.replace(",", "\t"))
    written(tmp_path / "excel.csv", "sep=;\r\n" + text.replace(",", ";"))
    written(tmp_path / "bom.csv", "\ufeff" + text)
    written(tmp_path / "table", text)
    (tmp_path / "wide.csv").write_bytes(text.encode("utf-16"))
    (tmp_path / "wide.tsv").write_bytes(b"\xfe\xff" + text.replace(",", "\t").encode("utf-16-be"))
    for name in ("t.jsonl", "t.parquet", "t.csv", "t.tsv", "excel.csv", "bom.csv", "table", "wide.csv", "wide.tsv"):
        known = read_moments(tmp_path / name, Collection.open(tapes))
        assert [(one.query, one.item, one.start, one.end) for one in known] == [
            ("red", "a", 0.0, 1.0),
            ("no words", "b", 0.5, 2.0),
        ], name


def test_names_of_moments_are_compared_in_one_form(tapes: Path, tmp_path: Path) -> None:
    made = Path(shutil.copytree(tapes, tmp_path / "collection"))
    chiasm.add([table(tmp_path / "t.jsonl", [{"id": "caf\u00e9", "text": "red"}])], to=made)
    picture(tmp_path / "cafe\u0301.png", (1, 0, 0))
    file = moments(tmp_path, HEAD + "caf\u00e9.png,cafe\u0301,0,2\n")
    (known,) = read_moments(file, Collection.open(made))
    assert (known.item, known.path) == ("caf\u00e9", tmp_path / "cafe\u0301.png")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("query,start,end\nred,0,1\n", "no column is called item"),
        ("", "the table has no rows"),
        (HEAD, "the table has no rows"),
        (HEAD + "red,a,0\n", "line 2"),
        (HEAD + "red, white,a,0,1\n", "line 2"),
        (HEAD + '"red,a,0,1\n', "quotes of the row"),
        (HEAD + "red,a,0,1\n,a,0,1\n", "line 3, column 'query'"),
        (HEAD + "no.png,a,0,1\n", "there is no file 'no.png'"),
        (HEAD + "red,x,0,1\n", "there is no item 'x'"),
        (HEAD + "red,note,0,x\n", "a number of characters"),
        (HEAD + "red,a,0,1:30\n", "line 2, column 'end'"),
        (HEAD + "red,a,-1,1\n", "line 2, column 'start'"),
        (HEAD + "red,a,nan,1\n", "line 2, column 'start'"),
        (HEAD + "red,a,2,1.5\n", "ends after it starts"),
        (HEAD + "red,a,1,1\n", "ends after it starts"),
        (HEAD + 6 * "red,a,0,1\n", "at most 5"),
    ],
)
def test_bad_tables_of_moments(
    tapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.setattr(questions, "MOST_QUESTIONS", 5)
    with pytest.raises(ManifestError) as caught:
        chiasm.evaluate(tapes, moments=moments(tmp_path, text))
    assert message in str(caught.value)
    assert "moments.csv" in str(caught.value)
    with pytest.raises(ManifestError, match="no such file"):
        chiasm.evaluate(tapes, moments=tmp_path / "nosuch.csv")


# ------------------------------------------------------------------------------------------------------------ together


def test_one_report_of_all(shades: Path, tmp_path: Path) -> None:
    made = Path(shutil.copytree(shades, tmp_path / "collection"))
    chiasm.add(
        [table(tmp_path / "t.jsonl", [{"id": "tape", "audio": sound(tmp_path / "t.wav", "red", "blue")}])], to=made
    )
    chiasm.align(made, name="moved", where="most <> 'blue'")
    files: dict[str, Any] = {
        "off_topic": off_topic(tmp_path),
        "moments": moments(tmp_path, HEAD + "red,tape,0,1\nblue,tape,0,1\n"),
    }
    pages = {}
    for kind in ("html", "md", "json"):
        result = chiasm.evaluate(made, pairs=("text", "image"), report=tmp_path / f"report.{kind}", **files)
        pages[kind] = (tmp_path / f"report.{kind}").read_text(encoding="utf-8")
    assert set(result.metrics) >= {"text_to_image", "by_modality", "nothing_found", "moments"}
    json.dumps(result.as_dict(), allow_nan=False)
    titles = [block["title"] for block in json.loads(pages["json"])["blocks"] if block["type"] == "section"]
    wanted = ["How well each finds the other", "Scores of what fits and of what does not", "When nothing fits"]
    wanted += ["Can the probabilities be trusted?", "Moments", "Moments with the least overlap"]
    assert [title for title in titles if title in wanted] == wanted
    assert {"Examples: text to image", "Worst queries: image to text", "In a gallery of both"} <= set(titles)
    for page in pages.values():
        assert "Queries without an answer that got a result" in page
        assert "tape 0.0 to 1.0" in page


def test_before_and_after_on_the_same_pairs(shades: Path, tmp_path: Path) -> None:
    made = Path(shutil.copytree(shades, tmp_path / "collection"))
    assert "before" not in chiasm.evaluate(made).metrics, "nothing was learned but scores"
    turned = LearnedMap(np.eye(12, dtype=np.float32)[[2, 1, 0, *range(3, 12)]], np.zeros(12, np.float32), 1.0)
    opened = Collection.open(made)
    space = start_of(opened, painters()).with_maps("moved", {"image": turned}, about={})
    learned_from = {
        row["hash"] for row in opened.files() if row["item"].split("-")[0] != "0" and row["modality"] == "image"
    }
    left_out = LeftOut((), np.zeros((0, 12), np.float32), frozenset(learned_from))
    save_space(made / "spaces" / "moved", SavedSpace(space, None, {"image": left_out}))
    measured = chiasm.evaluate(made)
    assert measured.metrics["before"]["text_to_image"]["mrr"] > measured.metrics["text_to_image"]["mrr"]
    start = chiasm.evaluate(made, space="start", where="id LIKE '0-%'")
    for direction in ("text_to_image", "image_to_text"):
        before = measured.metrics["before"][direction]
        assert before == start.metrics[direction]
        gain = measured.metrics["gain"][direction]["mrr"]["mean"]
        assert gain == pytest.approx(measured.metrics[direction]["mrr"] - before["mrr"])


@pytest.mark.parametrize("option", ["pairs", "space", "off_topic", "moments"])
def test_options_of_collections_do_not_go_with_models(shades: Path, tmp_path: Path, option: str) -> None:
    given: dict[str, Any] = {option: ("image", "text") if option == "pairs" else "x"}
    with pytest.raises(ChiasmError, match="pairs, space, off_topic and moments go with a collection alone"):
        chiasm.evaluate(tmp_path / "model", shades, **given)
