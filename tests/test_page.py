"""The functions behind the page, in process: what they show, store and refuse."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest
from fake_searcher import png
from page_parts import EVIL, EVIL_ID, WORDS, Made, learn_report, make, rising

from chiasm.errors import ChiasmError
from chiasm.serving import page_html, page_map
from chiasm.serving.app import create_app
from chiasm.serving.page import PATH, Lessons, Page, mount, newest_report
from chiasm.serving.settings import Settings
from chiasm.verbs.learn import DriftReport

T = TypeVar("T")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    with pytest.MonkeyPatch.context() as patch:
        found = make(tmp_path_factory.mktemp("page"), patch)
        yield found
        found.app.state.parts.engine.close()


@pytest.fixture
def page(made: Made) -> Page:
    made.kept.thumbs.clear()
    made.kept.labels.clear()
    made.kept.files.clear()
    return Page(made.searcher, made.app.state.parts, made.lessons)


def run(work: Awaitable[T]) -> T:
    async def inside() -> T:
        return await work

    return asyncio.run(inside())


class _Read(HTMLParser):
    """Elements of a document, as a browser would have them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.found if name == tag and wanted.items() <= attrs.items()]


def items_in(html: str) -> list[str | None]:
    return [attrs["data-item"] for attrs in _Read(html).of("article")]


def file(tmp_path: Path, name: str, content: bytes) -> str:
    path = tmp_path / name
    path.write_bytes(content)
    return str(path)


# ------------------------------------------------------------------------------------------------------------ search


def test_words_find_the_item_and_its_picture_comes_from_the_route_of_the_api(page: Page) -> None:
    html, asking = run(page.search("a red square"))
    assert items_in(html)[0] == "red"
    assert _Read(html).of("img")[0]["src"] == "/v1/items/red/files/image/0"
    assert "cosine 1.00" in html
    assert "%" not in _Read(html).text, "a cosine is no probability"
    assert asking is not None
    assert asking.words == "a red square"


def test_a_picture_a_sound_and_both_with_words_are_looked_for(page: Page, tmp_path: Path) -> None:
    html, asking = run(page.search("", paths=[file(tmp_path, "x.png", png((20, 20, 230)))], modality="image"))
    assert items_in(html)[:2] == ["blue", "sky"]
    assert asking is not None
    assert asking.title == "image x.png"
    assert asking.words == ""
    html, _ = run(page.search("", paths=[file(tmp_path, "x.wav", rising())]))
    assert items_in(html)[0] == "rising"
    html, asking = run(page.search("grass", paths=[file(tmp_path, "x.png", png((20, 200, 20)))]))
    assert items_in(html)[0] == "green"
    assert asking is not None
    assert asking.title == "“grass” + image x.png"


def test_players_begin_at_the_moment_that_was_found(page: Page, tmp_path: Path) -> None:
    html, _ = run(page.search("", paths=[file(tmp_path, "x.wav", rising())]))
    sources = {attrs["src"] for attrs in _Read(html).of("audio")}
    assert "/v1/items/falling/files/audio/0#t=2.00,3.00" in sources
    assert {"data-start": "2.00", "aria-label": "Play from 0:02"}.items() <= _Read(html).of(
        "button", **{"class": "cx-jump"}
    )[0].items()


def test_minus_words_filters_and_conditions_change_what_is_found(page: Page) -> None:
    html, _ = run(page.search("a red square", where="label = 'cold'"))
    assert set(items_in(html)) == {"blue", "sky", "green", EVIL_ID}
    html, _ = run(page.search("a red square", modality="audio"))
    assert set(items_in(html)) == {"rising", "falling"}
    plain, _ = run(page.search("the deep sea", modality="text"))
    html, asking = run(page.search("the deep sea", minus=WORDS["red"], modality="text"))
    assert asking is not None
    assert asking.title == "“the deep sea” − “a red square”"
    assert items_in(html).index("red") > items_in(plain).index("red")


def test_with_nothing_asked_the_items_are_shown_and_can_be_gone_from(page: Page) -> None:
    html, asking = run(page.search(""))
    assert len(items_in(html)) == 9
    assert not _Read(html).of("button", **{"data-act": "up"}), "nothing to rate"
    html, asking = run(page.act("like", "red", asking, who="me"))
    assert asking is not None
    assert asking.title == "like: a red square"
    assert "red" not in items_in(html)
    _, asking = run(page.search("", modality="image"))
    html, _ = run(page.act("like", "red", asking, who="me"))
    assert items_in(html)[0] == "rose"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"words": "x", "where": "nonsense ="}, "cannot be used"),
        ({"words": "", "minus": "x"}, "only what is not wanted"),
        ({"words": "", "paths": ["missing.png"]}, "does not exist"),
    ],
)
def test_what_is_wrong_with_a_question_is_said_in_words(page: Page, options: dict[str, Any], says: str) -> None:
    words = options.pop("words")
    html, asking = run(page.search(words, **options))
    assert asking is None
    (alert,) = _Read(html).of("p", role="alert")
    assert alert["class"] == "cx-problem"
    assert says in _Read(html).text


def test_a_file_over_the_bounds_of_the_server_is_refused(page: Page, tmp_path: Path) -> None:
    small = replace(page._parts.settings.uploads, max_pixels=10)
    page._parts = replace_parts(page, replace(page._parts.settings, uploads=small))
    html, _ = run(page.search("", paths=[file(tmp_path, "x.png", png((1, 2, 3)))]))
    assert "pixels" in html
    assert "cx-problem" in html


def replace_parts(page: Page, settings: Settings) -> Any:
    parts = page._parts
    return type(parts)(parts.engine, settings, parts.metrics, parts.feedback, parts.labels, parts.queries)


def test_pages_follow_one_another(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chiasm.serving.page.HITS", 4)
    first, asking = run(page.search("a red square"))
    assert len(items_in(first)) == 4
    second, asking = run(page.act("next", "", asking, who="me"))
    third, asking = run(page.act("next", "", asking, who="me"))
    assert len({*items_in(first), *items_in(second), *items_in(third)}) == 8, "all that are embedded, each once"
    assert not _Read(third).of("button", **{"data-act": "next"})
    again, _ = run(page.act("previous", "", asking, who="me"))
    assert items_in(again) == items_in(second)


def test_thumbs_change_the_ranking_at_once_are_stored_and_can_be_taken_back(page: Page, made: Made) -> None:
    before, asking = run(page.search("grass"))
    last = str(items_in(before)[-1])
    html, asking = run(page.act("up", last, asking, who="key ann"))
    assert last not in items_in(html)
    assert made.kept.thumbs == [(last, "up", "grass", "key ann")]
    assert items_in(html) != [name for name in items_in(before) if name != last]
    html, asking = run(page.act("down", last, asking, who="key ann"))
    assert asking is not None
    assert asking.query is not None
    assert (asking.query.liked, asking.query.disliked) == ((), (last,))
    html, asking = run(page.act("off", last, asking, who="key ann"))
    assert items_in(html) == items_in(before)
    assert [row[1] for row in made.kept.thumbs] == ["up", "down"]


def test_a_server_without_feedback_says_so_and_ranks_all_the_same(page: Page) -> None:
    parts = page._parts
    page._parts = type(parts)(parts.engine, parts.settings, parts.metrics, None, None, None)
    _, asking = run(page.search("grass"))
    html, asking = run(page.act("up", "blue", asking, who="me"))
    assert "keeps no feedback" in html
    assert "blue" not in items_in(html)


def test_what_cannot_be_pressed_is_refused(page: Page) -> None:
    html, _ = run(page.act("up", "red", None, who="me"))
    assert "left for too long" in html
    _, asking = run(page.search("grass"))
    html, _ = run(page.act("drop table", "red", asking, who="me"))
    assert "Load it again" in html
    html, _ = run(page.act("like", "no such item", asking, who="me"))
    assert "no longer there" in html


def test_a_prepared_query_keeps_no_media(page: Page, tmp_path: Path) -> None:
    _, asking = run(page.search("", paths=[file(tmp_path, "x.png", png((1, 2, 3), (200, 200)))]))
    assert asking is not None
    assert asking.query is not None
    (medium,) = asking.query.plus
    assert medium.modality == "image"
    assert medium.pixels.size == 3


HIT = {
    "id": "a", "modality": "image", "score": 0.3, "probability": 0.42, "start": None, "end": None, "text": None,
    "url": "/v1/items/a/files/image/0", "moments": [], "metadata": {},
}  # fmt: skip


def test_nothing_found_is_said_plainly_and_a_probability_is_called_one() -> None:
    answer = {"hits": [HIT], "found": False, "threshold": 0.6}
    html = page_html.results(answer, {}, page_html.Shown(title="x"))
    assert "Nothing found." in html
    assert "No hit reaches 60 %" in html
    assert "cx-dim" in html
    assert "42 %" in html
    good = page_html.results({**answer, "found": True}, {}, page_html.Shown(title="x"))
    assert "Nothing found" not in good
    empty = page_html.results({"hits": [], "found": None}, {}, page_html.Shown(title="x"))
    assert "Nothing found. Try other words" in empty


@pytest.mark.parametrize(
    ("share", "shown"), [(0.0, "< 1 %"), (0.004, "< 1 %"), (0.5, "50 %"), (0.999, "99 %"), (1.0, "100 %")]
)
def test_a_probability_is_never_rounded_to_certainty(share: float, shown: str) -> None:
    assert page_html.percent(share) == shown


def test_times_are_written_as_players_take_them() -> None:
    assert page_html.fragment(1.5, 3) == "#t=1.50,3.00"
    assert page_html.fragment(1.5, None) == "#t=1.50"
    assert page_html.fragment(None, 3) == ""
    assert [page_html.clock(seconds) for seconds in (0, 59.9, 61, 3725)] == ["0:00", "0:59", "1:01", "1:02:05"]


def test_hostile_texts_and_ids_stay_texts(page: Page) -> None:
    html, asking = run(page.search(EVIL))
    read = _Read(html)
    assert items_in(html)[0] == EVIL_ID
    assert not read.of("script")
    assert not [attrs for _, attrs in read.found if any(name.startswith("on") for name in attrs)]
    assert read.of("button", **{"data-act": "up"})[0]["data-id"] == EVIL_ID
    assert read.of("img")[0]["src"] == "/v1/items/ev%22il%27%3Cb%3E%2Fq%23%3F%26/files/image/0"
    html, _ = run(page.act("up", EVIL_ID, asking, who="me"))
    assert not _Read(html).of("script")
    assert not _Read(run(page.map("image", "label", "overview"))).of("script")


# ------------------------------------------------------------------------------------------------------ recognition


def test_dropped_files_are_recognised_and_their_labels_kept(page: Page, made: Made, tmp_path: Path) -> None:
    paths = [
        file(tmp_path, "<b>warm.png", png((250, 10, 10))),
        file(tmp_path, "grey.png", png((90, 90, 90))),
        file(tmp_path, "note.png", b"no picture at all \x00"),
    ]
    html, cards, names = run(page.classify(paths))
    text = _Read(html).text
    assert [card.said and card.said["label"] for card in cards] == ["warm", "cold", None]
    assert "unknown" in text
    assert "90 %" in text
    assert "<b>warm" not in html
    assert cards[2].fault
    assert len(_Read(html).of("form")) == 2, "what cannot be read cannot be labelled"
    html, cards = run(page.correct("file:1", " cold ", cards, names, who="me"))
    assert made.kept.files == [(Path(paths[1]).read_bytes(), "grey.png", "cold")]
    assert "Saved as" in html
    assert cards[1].saved == "cold"


def test_items_are_reviewed_those_first_that_the_model_takes_for_something_else(page: Page, made: Made) -> None:
    html, cards, names = run(page.review())
    assert {card.id for card in cards} == {"red", "rose", "blue", "sky", "green", EVIL_ID}
    assert names == {}
    html, cards = run(page.correct("red", "hot<i>", cards, names, who="key ann"))
    assert made.kept.labels == [("red", "hot<i>", "key ann")]
    assert "hot&lt;i&gt;" in html


@pytest.mark.parametrize(
    ("item", "label", "says"),
    [("red", "  ", "from 1 to 1,000"), ("red", "x" * 1001, "from 1 to 1,000"), ("elsewhere", "x", "left for too long")],
)
def test_corrections_that_make_no_sense_are_refused(page: Page, made: Made, item: str, label: str, says: str) -> None:
    _, cards, names = run(page.review())
    html, changed = run(page.correct(item, label, cards, names, who="me"))
    assert says in html
    assert changed == cards
    assert made.kept.labels == []


def test_too_many_files_and_none_are_said(page: Page) -> None:
    assert "Drop files first" in run(page.classify([]))[0]
    assert "At most 32 files" in run(page.classify(["x.png"] * 33))[0]


def test_learning_shows_old_against_new(page: Page) -> None:
    html = run(page.learn())
    text = _Read(html).text
    assert "The new model is in use." in text
    for words in ("0.700", "0.800", "+0.100", "+0.040 to +0.160", "3 corrections", "hot: 2 more examples needed"):
        assert words in text
    assert "<b>by" not in html, "the reason is text"
    assert "The old model stays." in page_html.learned(learn_report(switched=False).as_dict())


def test_a_failure_to_learn_is_said(made: Made) -> None:
    def fails() -> Any:
        raise ChiasmError("there are too few labels. Give more")

    page = Page(made.searcher, made.app.state.parts, Lessons(learn=fails))
    assert "too few labels" in run(page.learn())
    assert "cannot learn" in run(Page(made.searcher, made.app.state.parts, Lessons()).learn())


# --------------------------------------------------------------------------------------------------------- the whole


def test_the_map_has_a_point_an_item_coloured_by_the_column(page: Page) -> None:
    html = run(page.map("image", "label", "overview"))
    dots = _Read(html).of("circle")
    assert {dot["data-id"] for dot in dots} == {"red", "rose", "blue", "sky", "green", EVIL_ID}
    by_id = {str(dot["data-id"]): dot for dot in dots}
    assert by_id["red"]["class"] == by_id["rose"]["class"] != by_id["blue"]["class"]

    def apart(one: str, other: str) -> float:
        at = [np.array([float(str(by_id[name]["cx"])), float(str(by_id[name]["cy"]))]) for name in (one, other)]
        return float(np.linalg.norm(at[0] - at[1]))

    assert apart("red", "rose") < apart("red", "blue") / 3
    assert "red" in items_in(run(page.show("red")))
    assert "no longer there" in run(page.show("nothing"))
    assert "nothing to draw" in run(page.map("video", None, "overview"))


def test_projection_is_that_of_principal_components() -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(60, 8)) * np.array([9, 4, 1, 1, 1, 1, 1, 1])).astype(np.float32)
    centred = vectors - vectors.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    found = page_map.project(vectors, "overview")
    np.testing.assert_allclose(np.abs(found), np.abs(u[:, :2] * s[:2]), rtol=1e-3, atol=1e-3)
    assert page_map.project(vectors[:2], "overview").shape == (2, 2)
    assert page_map.project(np.ones((5, 8), np.float32), "overview").shape == (5, 2)


def test_neighbours_stay_together() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(3), 15)
    vectors = (np.eye(8)[group] * 10 + rng.normal(size=(45, 8)) * 0.1).astype(np.float32)
    plane = page_map.project(vectors, "neighbours")
    near = np.linalg.norm(plane[:, None] - plane[None], axis=2) + np.eye(45) * 1e9
    assert (group[near.argmin(1)] == group).all()


def test_groups_are_the_most_frequent_values_or_fifths_of_numbers() -> None:
    values = [f"kind {number % 12}" for number in range(60)] + ["kind 0", None]
    groups, places = page_map.groups_of(values)
    assert groups[0][0] == "kind 0"
    assert groups[-1][0] == "others"
    assert len(groups) == 9
    assert places[0] == 0
    assert places[-1] == 8
    groups, places = page_map.groups_of([float(number) for number in range(100)] + [None])
    assert [name for name, _ in groups][-1] == "none"
    assert [places.count(place) for place in range(6)] == [20, 20, 20, 20, 20, 1]


def test_the_status_names_files_that_are_broken_with_the_reason(page: Page) -> None:
    html = run(page.status())
    text = _Read(html).text
    assert "media/broken.png" in text
    assert "exact, 6 files" in text
    assert "0 thumb, 0 label" in text
    assert str(page.searcher.collection.path.parent) not in html, "where files lie is nobody's business"


def test_a_warning_of_drift_is_shown(made: Made) -> None:
    lessons = Lessons(drift=lambda: DriftReport({}, {}, ("images <differ> from those of training",)))
    html = run(Page(made.searcher, made.app.state.parts, lessons).status())
    assert "images &lt;differ&gt; from those of training" in html


def test_the_newest_report_is_the_one_that_is_shown(page: Page, tmp_path: Path) -> None:
    assert newest_report(tmp_path) is None
    (tmp_path / "reports").mkdir()
    for number, name in enumerate(("b.html", "a.html", "c.txt")):
        path = tmp_path / "reports" / name
        path.write_text(name)
        os.utime(path, (number, number))
    (tmp_path / "secret").write_text("x")
    (tmp_path / "reports/z.html").symlink_to(tmp_path / "secret")
    assert newest_report(tmp_path) == tmp_path / "reports/a.html"
    assert "no report yet" in page.report()


# ---------------------------------------------------------------------------------------------------------- over HTTP


@asynccontextmanager
async def client(made: Made) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(made.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8265") as found:
        yield found


def ask(made: Made, work: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    async def inside() -> None:
        async with client(made) as found:
            await work(found)

    asyncio.run(inside())


def test_the_page_is_served_with_a_policy_that_names_its_scripts(made: Made) -> None:
    async def work(found: httpx.AsyncClient) -> None:
        assert (await found.get("/")).headers["location"] == f"{PATH}/"
        answer = await found.get(f"{PATH}/")
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert "'unsafe-inline'" not in policy.partition("script-src")[2].partition(";")[0]
        assert "default-src 'self'" in policy
        assert answer.headers["x-frame-options"] == "DENY"
        assert not re.findall(r'(?:src|href)="https?:', answer.text), "nothing is loaded from elsewhere"
        assert (await found.get("/v1/status")).headers["content-security-policy"].startswith("default-src 'none'")

    ask(made, work)


@pytest.mark.parametrize(
    "path",
    [
        *("file=/etc/passwd", "file=%2Fetc%2Fpasswd", "file=../../../../etc/passwd", "file=http://127.0.0.1:9/x"),
        *("file=https%3A%2F%2Fexample.org%2F", "proxy=http://127.0.0.1:9/x", "info", "openapi.json", "call/search"),
        *("stream/x/1/2/playlist.m3u8", "custom_component/x/client/component/index.js", "run/predict", "runs"),
    ],
)
def test_routes_that_read_files_or_fetch_addresses_are_not_there(made: Made, path: str) -> None:
    async def work(found: httpx.AsyncClient) -> None:
        for method in ("GET", "POST"):
            answer = await found.request(method, f"{PATH}/gradio_api/{path}")
            assert answer.status_code == 404, answer.text[:200]
            assert answer.headers["content-type"] == "application/problem+json"

    ask(made, work)


def test_files_of_the_collection_are_not_read_by_the_route_of_uploads(made: Made) -> None:
    folder = made.searcher.collection.path

    async def work(found: httpx.AsyncClient) -> None:
        for path in (folder / "chiasm.json", folder.parent / "media/0.png"):
            assert path.exists()
            assert (await found.get(f"{PATH}/gradio_api/file={path}")).status_code == 404
        uploads = Path(os.environ["GRADIO_TEMP_DIR"])
        (uploads / "link.png").symlink_to(folder.parent / "media/0.png")
        assert (await found.get(f"{PATH}/gradio_api/file={uploads}/link.png")).status_code == 404
        outside = f"{uploads}/../{folder.parent.name}/media/0.png"
        assert (await found.get(f"{PATH}/gradio_api/file={outside}")).status_code == 404

    ask(made, work)


@pytest.mark.parametrize("path", ["/etc/passwd", "http://127.0.0.1:9/x.png", "../../etc/passwd", ""])
def test_events_name_only_files_that_were_uploaded(made: Made, path: str) -> None:
    event = {
        "data": [None, None, {"path": path, "meta": {"_type": "gradio.FileData"}}],
        "fn_index": 0,
        "session_hash": "x",
    }

    async def work(found: httpx.AsyncClient) -> None:
        answer = await found.post(f"{PATH}/gradio_api/queue/join", json=event)
        assert answer.status_code == 422
        assert "names only files that were uploaded" in answer.json()["detail"]

    ask(made, work)


def test_events_are_bounded(made: Made) -> None:
    async def work(found: httpx.AsyncClient) -> None:
        answer = await found.post(f"{PATH}/gradio_api/queue/join", content=json.dumps({"data": ["x" * 300_000]}))
        assert answer.status_code == 413
        answer = await found.post(f"{PATH}/gradio_api/queue/join", content=b"{nonsense")
        assert answer.status_code == 422

    ask(made, work)


def test_the_report_is_served_alone_and_without_scripts(made: Made) -> None:
    reports = made.searcher.collection.path / "reports"
    reports.mkdir()
    try:
        (reports / "new.html").write_text("<h1>fine</h1><script>alert(1)</script>")

        async def work(found: httpx.AsyncClient) -> None:
            answer = await found.get(f"{PATH}/report")
            assert answer.text.startswith("<h1>fine")
            assert answer.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
            assert answer.headers["x-frame-options"] == "SAMEORIGIN"
            assert (await found.get(f"{PATH}/report/../chiasm.json")).status_code == 404

        ask(made, work)
    finally:
        (reports / "new.html").unlink()
        reports.rmdir()
    ask(made, _no_report)


async def _no_report(found: httpx.AsyncClient) -> None:
    assert (await found.get(f"{PATH}/report")).status_code == 404


def test_settings_that_do_not_know_the_page_are_refused(made: Made) -> None:
    app = create_app(Settings(), made.searcher)
    try:
        with pytest.raises(ChiasmError, match=r"page_paths has to hold '/page'"):
            mount(app, made.searcher)
    finally:
        app.state.parts.engine.close()
