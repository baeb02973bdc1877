"""Long texts: where they are cut, that nothing is lost, and that search finds and shows the passage."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import httpx
import lance
import numpy as np
import pytest
from jaxtyping import Float
from listening import listening
from playwright.sync_api import BrowserContext, expect
from test_page_browser import browser, context, visit  # noqa: F401  # fixtures
from typer.testing import CliRunner

import chiasm
from chiasm.cli.commands import app
from chiasm.encoders import resolve
from chiasm.encoders.passages import embed_texts, passages
from chiasm.serving.app import create_app
from chiasm.serving.settings import Settings
from chiasm.types import Text
from chiasm.verbs.search import Searcher


def count(texts: Sequence[str]) -> list[int]:
    """Count a token per three letters begun of every word, and two around every text."""
    return [2 + sum(-(-len(word) // 3) for word in text.split()) for text in texts]


def cut(text: str, limit: int = 12) -> list[str]:
    return [text[start:end] for start, end in passages(text, limit=limit, count=count)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one two. six.\n\nten two. now. one six", ["one two. six.", "ten two. now. one six"]),
        ("one two six\nten two now one six ten two one", ["one two six", "ten two now one six ten two one"]),
        ('She is up. "Is it?" he let it be, and ate. End.', ['She is up. "Is it?"', "he let it be, and ate. End."]),
        ("\u732b\u3044\u308b\u3002" * 9, ["\u732b\u3044\u308b\u3002" * 5, "\u732b\u3044\u308b\u3002" * 4]),
        ("abc " * 11, ["abc " * 9 + "abc", "abc"]),
    ],
    ids=["paragraphs", "lines", "sentences", "sentences without spaces", "words"],
)
def test_cuts_lie_at_the_highest_borders_that_there_are(text: str, expected: list[str]) -> None:
    assert cut(text) == expected


@pytest.mark.parametrize("seed", range(20))
def test_nothing_but_whitespace_is_lost_and_no_passage_is_too_long(seed: int) -> None:
    generator = np.random.default_rng(seed)
    ends = ["", ".", ".\n", "\n\n", "? ", "\t\n", "\u3002"]
    words = ["x" * int(size) for size in generator.integers(1, 30 if seed % 4 else 400, 300)]
    text = " ".join(word + ends[int(generator.integers(len(ends)))] for word in words)
    limit = int(generator.integers(4, 60))
    spans = passages(text, limit=limit, count=count)
    assert all(start < end for start, end in spans)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
    assert re.sub(r"\s", "", "".join(text[start:end] for start, end in spans)) == re.sub(r"\s", "", text)
    assert max(count([text[start:end] for start, end in spans])) <= limit
    assert all(text[start:end] == text[start:end].strip() for start, end in spans)


def test_pieces_that_have_more_tokens_together_than_alone_still_fit() -> None:
    def greedy(texts: Sequence[str]) -> list[int]:
        return [len(text) + text.count("b a") * 3 for text in texts]

    text = "a b " * 20
    spans = passages(text, limit=10, count=greedy)
    assert max(greedy([text[start:end] for start, end in spans])) <= 10
    assert "".join(text[start:end] for start, end in spans).replace(" ", "") == "ab" * 20


def test_the_whole_is_the_mean_of_the_passages_by_their_length() -> None:
    def embed(texts: Sequence[str]) -> Float[np.ndarray, "texts dim"]:
        known = {"short": [3.0, 4.0], "abc abc abc abc abc": [2.0, 0.0], "xyz": [0.0, 2.0]}
        return np.array([known[text] for text in texts], np.float32)

    found = embed_texts(["short", "abc abc abc abc abc\n\nxyz"], limit=7, count=count, embed=embed)
    assert found.moments is not None
    assert found.texts == (None, None)
    assert found.moments.owners.tolist() == [1, 1]
    assert found.moments.texts == ("abc abc abc abc abc", "xyz")
    assert np.stack([found.moments.starts, found.moments.ends]).tolist() == [[0, 21], [19, 24]]
    np.testing.assert_allclose(found.vectors[0], [3, 4])
    np.testing.assert_allclose(found.vectors[1], 2 * np.array([19, 3]) / np.sqrt(370), rtol=1e-6)


# --------------------------------------------------------------------------------------------- through a real encoder

FILLER = "The house stood by the river and nobody had lived in it for many years. "
FACT = "The treasure of the pirates lies under the old lighthouse of Kampen."


def long_text(end: str) -> str:
    return FILLER * 45 + end


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long")
    rows = [
        {"id": "plain", "text": long_text("Nobody knows more.")},
        {"id": "fact", "text": long_text(FACT)},
        {"id": "file", "text": "file.txt"},
        {"id": "short", "text": "A recipe for plum cake."},
    ]
    (folder / "file.txt").write_text(long_text("My uncle repairs tractors and combine harvesters."))
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    chiasm.add([folder / "rows.jsonl"], to=folder / "index")
    return folder


def test_texts_that_differ_at_the_end_differ(collection: Path) -> None:
    network = next(one for one in resolve("offline") if "text" in one.modalities)
    plain, fact = network.encode([Text(long_text("Nobody knows more.")), Text(long_text(FACT))]).vectors
    assert np.linalg.norm([plain, fact], axis=1) == pytest.approx(1, abs=1e-5)
    assert plain @ fact < 0.999


def test_the_passage_that_was_found_is_shown(collection: Path) -> None:
    for query, name in (("pirate treasure under a lighthouse", "fact"), ("repair of agricultural machines", "file")):
        hit = chiasm.search(collection / "index", query, k=3).hits[0]
        assert hit.id == name
        assert hit.start is not None and hit.end is not None
        text = long_text(FACT) if name == "fact" else (collection / "file.txt").read_text()
        assert text[int(hit.start) : int(hit.end)] == hit.text
        assert len(text) - 1500 < hit.start < hit.end == len(text)
        assert hit.moments[0].text == hit.text
        assert (hit.path is None) == (name == "fact")


def test_a_text_that_the_model_takes_whole_has_no_passages(collection: Path) -> None:
    hit = chiasm.search(collection / "index", "plum cake").hits[0]
    assert (hit.id, hit.text, hit.start, hit.moments) == ("short", "A recipe for plum cake.", None, ())


def test_every_word_of_a_long_question_counts(collection: Path) -> None:
    short, long = (
        chiasm.search(collection / "index", text).hits[0] for text in (FACT, f"{'Hello there! ' * 600}{FACT}")
    )
    other = chiasm.search(collection / "index", "Hello there! " * 603).hits
    assert short.id == "fact"
    assert long.score != pytest.approx(next(hit.score for hit in other if hit.id == long.id), abs=1e-4)


def test_the_whole_text_is_searched_for_words(collection: Path) -> None:
    hits = chiasm.search(collection / "index", "Kampen", hybrid=True, k=1).hits
    assert [hit.id for hit in hits] == ["fact"]


def test_the_command_line_shows_the_passage(collection: Path) -> None:
    shown = CliRunner().invoke(app, ["search", str(collection / "index"), "pirate treasure", "--k", "1"])
    assert shown.exit_code == 0, shown.output
    assert re.search(r"characters [\d,]+ to\s+[\d,]+", shown.output)
    document = json.loads(CliRunner().invoke(app, ["search", str(collection / "index"), "pirates", "--json"]).stdout)
    assert FACT in document["hits"][0]["text"]
    assert document["hits"][0]["end"] == len(long_text(FACT))


def test_whether_passages_are_found_is_measured(collection: Path, tmp_path: Path) -> None:
    rows = [("treasure of the pirates", "fact", 2400, len(long_text(FACT))), ("plum cake", "short", 0, 22)]
    table = "".join(f"{query},{item},{start},{end}\n" for query, item, start, end in rows)
    (tmp_path / "moments.csv").write_text(f"query,item,start,end\n{table}")
    found = chiasm.evaluate(collection / "index", moments=tmp_path / "moments.csv").metrics["moments"]
    assert (found["queries"], found["items"], found["r@1_iou@0.3"]) == (2, 2, 1)


def test_a_text_is_not_kept_once_a_passage(collection: Path) -> None:
    (table,) = (collection / "index").glob("search-*.lance")
    rows = lance.dataset(str(table)).to_table(columns=["id", "text", "_start"]).to_pylist()
    assert sum(row["_start"] is not None for row in rows) > 3
    assert [row["id"] for row in rows if row["text"] is not None] == ["plain", "fact", "file", "short"]

    def places() -> list[int]:
        found = lance.dataset(str(table)).to_table(columns=["id"], filter="id = 'fact'", with_row_address=True)
        return sorted(found["_rowaddr"].to_pylist())

    before = places()
    (collection / "more.jsonl").write_text(json.dumps({"id": "more", "text": "A zebra."}))
    chiasm.add([collection / "more.jsonl"], to=collection / "index")
    assert chiasm.search(collection / "index", "zebra").hits[0].id == "more"
    assert places() == before, "rows without the text of their item are not stale"


# --------------------------------------------------------------------------------------------------- REST and the page


@pytest.fixture(scope="module")
def server(collection: Path) -> Iterator[str]:
    with listening(create_app(Settings(rate=None), Searcher(collection / "index")), force=True) as ((_, port), _):
        yield f"http://127.0.0.1:{port}"


def test_the_api_gives_the_passage(server: str) -> None:
    answer = httpx.post(f"{server}/v1/search", json={"queries": [{"text": "pirate treasure"}], "k": 2}, timeout=60)
    (found,) = answer.json()["results"]
    hit = found["hits"][0]
    assert (hit["id"], hit["end"], found["notes"]) == ("fact", len(long_text(FACT)), [])
    assert hit["text"] == long_text(FACT)[int(hit["start"]) :]
    assert hit["moments"][0] == {"start": hit["start"], "end": hit["end"], "score": hit["score"], "text": hit["text"]}


def test_the_page_shows_the_passage(server: str, context: BrowserContext) -> None:  # noqa: F811
    seen = visit(context, server)
    seen.search("pirate treasure")
    card = seen.card("fact")
    expect(card.locator("blockquote")).to_contain_text(FACT)
    expect(card.locator(".worth")).to_contain_text(re.compile(r"characters [\d,]+ to [\d,]+"))
    assert len(card.locator(".caption").inner_text()) < 250
    card.locator("a.open").click()
    expect(seen.page.locator(".transcript .hit", has_text=FACT).first).to_be_visible()
    assert seen.errors == []
    seen.page.close()
