"""The page in a real browser: Debian's Chromium without a window, against a real server on a free port of loopback."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from fake_searcher import png
from listening import listening
from page_parts import EVIL, EVIL_ID, Made, make, rising
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright
from waiting import LIMIT

from chiasm.encoders.licence import PretrainedModel

pytestmark = pytest.mark.race
HITS = "#results .card"
# The page's recorder, and then: wait until it has recorded so many bytes.
RECORDER = """
const start = MediaRecorder.prototype.start;
MediaRecorder.prototype.start = function () { window.recorder = this; start.call(this); };
"""
RECORDED = """(bytes) => new Promise((done) => {
    let size = 0;
    const ask = () => window.recorder ? window.recorder.requestData() : setTimeout(wait, 20);
    const wait = () => {
        window.recorder?.addEventListener("dataavailable", (event) => {
            size += event.data.size;
            if (size >= bytes) done(); else setTimeout(ask, 20);
        });
        ask();
    };
    wait();
})"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    with pytest.MonkeyPatch.context() as patch:
        yield make(tmp_path_factory.mktemp("browser"), patch)


@pytest.fixture(scope="module")
def address(made: Made) -> Iterator[str]:
    with listening(made.app, force=True) as ((_, port), _):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:  # shown in the summary of the run, so not in silence
        pytest.skip("the tests of the page in a browser need a Chromium. On Debian: apt-get install chromium")
    expect.set_options(timeout=1000 * LIMIT)
    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        one = playwright.chromium.launch(
            executable_path=found,
            args=[*sandbox, "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--mute-audio"],
        )
        yield one
        one.close()


@dataclass
class Visit:
    """A loaded page, and what its browser asked for and complained of."""

    page: Page
    asked: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def hits(self) -> Locator:
        return self.page.locator(HITS)

    def items(self) -> list[str]:
        names: list[str] = self.page.eval_on_selector_all(HITS, "all => all.map(one => one.dataset.id)")
        return names

    def card(self, item: str) -> Locator:
        return self.page.locator(f"{HITS}[data-id={item}]")

    def tab(self, name: str) -> None:
        self.page.locator("#tabs").get_by_role("link", name=name).click()

    def search(self, words: str) -> None:
        self.page.get_by_label("Search with words").fill(words)
        with self.page.expect_response("**/v1/search"):
            self.page.get_by_label("Search with words").press("Enter")
        expect(self.hits.first).to_be_visible()


def visit(context: BrowserContext, address: str, query: str = "") -> Visit:
    page = context.new_page()
    page.add_init_script(RECORDER)
    page.set_default_timeout(1000 * LIMIT)
    one = Visit(page)
    page.on("request", lambda request: one.asked.append(request.url))
    page.on("pageerror", lambda error: one.errors.append(str(error)))
    page.on("console", lambda message: one.errors.append(message.text) if message.type == "error" else None)
    page.goto(f"{address}/{query}")
    expect(page.locator("#tabs a").first).to_be_visible()
    return one


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    one = browser.new_context(viewport={"width": 1280, "height": 900}, permissions=["microphone"])
    yield one
    one.close()


@pytest.fixture
def seen(context: BrowserContext, address: str, made: Made) -> Iterator[Visit]:
    """A page that nothing was done with."""
    made.kept.thumbs.clear()
    one = visit(context, address)
    expect(one.hits.first).to_be_visible()
    yield one
    one.page.close()
    away = [
        url for url in one.asked if urlsplit(url).scheme in {"http", "https"} and urlsplit(url).hostname != "127.0.0.1"
    ]
    assert not away, "the page asked for something that is elsewhere"
    assert not [error for error in one.errors if "422" not in error and "404" not in error]


def picture(name: str, colour: tuple[int, int, int]) -> list[Any]:
    return [{"name": name, "mimeType": "image/png", "buffer": png(colour)}]


def test_words_are_searched_with_the_keyboard_alone(seen: Visit) -> None:
    seen.page.get_by_label("Search with words").focus()
    seen.page.keyboard.type("a red square")
    seen.page.keyboard.press("Enter")
    expect(seen.hits.first).to_have_attribute("data-id", "red")
    image = seen.hits.first.locator("img")
    assert urlsplit(str(image.get_attribute("src"))).path == "/v1/items/red/files/image/0"
    assert image.evaluate("one => one.complete && one.naturalWidth") == 16
    for _ in range(30):
        seen.page.keyboard.press("Tab")
        if seen.page.evaluate("document.activeElement.dataset.act") == "up":
            break
    assert seen.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    seen.page.keyboard.press("Enter")
    expect(seen.page.locator("#unrate")).to_contain_text("1 ratings")


def test_the_address_is_the_state(seen: Visit, context: BrowserContext, address: str) -> None:
    seen.search("a red square")
    seen.card("red").locator("[data-act=like]").click()
    expect(seen.page.locator(".chips")).to_contain_text("like red")
    expect(seen.hits.first).not_to_have_attribute("data-id", "red")
    link = urlsplit(seen.page.url).query
    seen.page.go_back()
    expect(seen.hits.first).to_have_attribute("data-id", "red")
    assert seen.page.get_by_label("Search with words").input_value() == "a red square"
    other = visit(context, address, f"?{link}")
    expect(other.page.locator(".chips")).to_contain_text("like red")
    other.page.close()


def test_a_picture_is_looked_for_and_a_filter_changes_what_is_found(seen: Visit) -> None:
    seen.page.locator("#file").set_input_files(picture("x.png", (20, 20, 230)))
    expect(seen.page.locator(".chips")).to_contain_text("x.png")
    expect(seen.hits.first).to_have_attribute("data-id", "blue")
    assert seen.items()[:2] == ["blue", "sky"]
    seen.page.locator("summary", has_text="Filters").click()
    seen.page.locator("#where").fill("label = 'warm'")
    seen.page.locator("#where").press("Enter")
    expect(seen.hits).to_have_count(2)
    assert set(seen.items()) == {"red", "rose"}
    seen.page.locator("#where").fill("label =")
    seen.page.locator("#where").press("Enter")
    expect(seen.page.locator("#results .problem")).to_contain_text("cannot be used")


def test_a_sound_is_looked_for_and_its_player_jumps_to_the_moment(seen: Visit) -> None:
    files: list[Any] = [{"name": "x.wav", "mimeType": "audio/wav", "buffer": rising()}]
    seen.page.locator("#file").set_input_files(files)
    expect(seen.hits.first).to_have_attribute("data-id", "rising")
    other = seen.card("falling")
    assert "/v1/items/falling/files/audio/0#t=2.0,3.0" in str(other.locator("audio").get_attribute("src"))
    other.locator(".moments button").last.click()
    seen.page.wait_for_function("() => document.querySelector('[data-id=falling] audio').duration > 2.9")


def test_a_sound_is_recorded_and_looked_for(seen: Visit) -> None:
    seen.page.locator("#record").click()
    expect(seen.page.locator("#record")).to_have_text("Stop")
    seen.page.evaluate(RECORDED, 4000)
    seen.page.locator("#record").click()
    expect(seen.page.locator(".chips")).to_contain_text("recording")
    expect(seen.hits.first).to_be_visible()
    assert {"rising", "falling"} <= set(seen.items())


def test_thumbs_rank_anew_at_once_and_are_stored(seen: Visit, made: Made) -> None:
    seen.search("grass")
    before = seen.items()
    chosen = next(name for name in before[2:] if name != EVIL_ID)
    seen.card(chosen).locator("[data-act=up]").click()
    expect(seen.page.locator("#unrate")).to_contain_text("1 ratings")
    expect(seen.card(chosen)).to_have_count(0)
    assert seen.items() != [name for name in before if name != chosen]
    assert made.kept.thumbs == [(chosen, "up", "grass", "address 127.0.0.1")]
    seen.page.locator("#unrate").click()
    expect(seen.card(chosen)).to_have_count(1)


def test_hostile_captions_and_ids_do_nothing(seen: Visit) -> None:
    seen.search(EVIL)
    assert seen.items()[0] == EVIL_ID
    expect(seen.hits.first.locator(".caption")).to_contain_text("<script>window.hacked=1</script>")
    assert seen.hits.first.locator("img").evaluate("one => one.complete && one.naturalWidth") == 16
    seen.hits.first.locator("button.caption").click()
    expect(seen.page.locator("dialog h2")).to_contain_text("<script>")
    seen.page.keyboard.press("Escape")
    seen.hits.first.locator("[data-act=like]").click()
    expect(seen.page.locator(".chips")).to_contain_text(EVIL_ID)
    assert EVIL_ID not in seen.items()
    seen.tab("Map")
    expect(seen.page.locator("canvas")).to_be_visible()
    seen.tab("Status")
    expect(seen.page.locator("#drift")).to_contain_text("<b>new items differ")
    assert seen.page.evaluate("window.hacked") is None


def test_an_event_handler_that_gets_into_the_page_is_stopped_by_its_policy(
    context: BrowserContext, address: str
) -> None:
    one = visit(context, address)
    with one.page.expect_console_message(lambda message: "Content Security Policy" in message.text):
        one.page.evaluate(
            "document.body.insertAdjacentHTML('beforeend', '<img src=\"/none\" onerror=\"window.hacked=1\">')"
        )
    one.page.wait_for_function("() => [...document.images].every((image) => image.complete)")
    assert one.page.evaluate("window.hacked") is None
    one.page.close()


def test_files_are_recognised_corrected_and_learned_from(seen: Visit, made: Made) -> None:
    seen.tab("Classify")
    seen.page.locator("#drop").set_input_files([*picture("a.png", (250, 10, 10)), *picture("b.png", (90, 90, 90))])
    cards = seen.page.locator("#predictions .card")
    expect(cards).to_have_count(2)
    expect(cards.first.locator(".prediction")).to_have_text("warm 90 %")
    expect(cards.last.locator(".prediction")).to_contain_text("unknown")
    cards.last.locator("input").fill("grey")
    cards.last.locator("input").press("Enter")
    expect(cards.last).to_contain_text("Kept: grey")
    assert made.kept.files[-1] == (png((90, 90, 90)), "b.png", "grey")
    seen.page.locator("#review").click()
    expect(cards).to_have_count(6)
    card = seen.page.locator("#predictions .card", has_text="the deep sea")
    card.locator("input").fill("deep")
    card.get_by_role("button", name="Correct").click()
    expect(card).to_contain_text("Kept: deep")
    assert made.kept.labels[-1] == ("blue", "deep", "address 127.0.0.1")
    seen.page.locator("#learn").click()
    expect(seen.page.locator("#learned")).to_contain_text("The new model replaces the old one")
    expect(seen.page.locator("#learned")).to_contain_text("0.800 now")
    assert made.kept.learned == 1


def test_the_map_is_walked_with_the_keyboard(seen: Visit) -> None:
    seen.tab("Map")
    seen.page.locator("canvas").focus()
    captions = set()
    for _ in range(6):
        seen.page.keyboard.press("ArrowRight")
        captions.add(seen.page.locator("#map .note").first.text_content())
    assert len(captions) == 6
    seen.page.keyboard.press("Enter")
    expect(seen.page.locator("dialog")).to_be_visible()


def test_the_report_and_the_status_are_shown(seen: Visit, made: Made) -> None:
    reports = made.searcher.collection.path / "reports"
    reports.mkdir(exist_ok=True)
    (reports / "one.html").write_text("<h1>Recall is fine</h1>")
    seen.tab("Report")
    expect(seen.page.frame_locator("#report").locator("h1")).to_have_text("Recall is fine")
    made.searcher.collection.keep_models(
        [PretrainedModel("somebody/tiny", "", "MIT", "README.md", 2_000_000, None, ("text",))]
    )
    seen.page.reload()
    seen.tab("Status")
    expect(seen.page.locator("#outcomes")).to_contain_text("media/broken.png")
    expect(seen.page.locator("main")).to_contain_text("somebody/tiny (text): MIT, 2.0 million parameters")


def test_the_page_fits_a_phone(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    one = visit(context, address)
    one.search("a red square")
    first = one.hits.first.bounding_box()
    assert first is not None
    assert first["y"] < 500, "hits are seen without scrolling"
    small = one.page.eval_on_selector_all(
        "#results button, #go", "all => all.filter(one => one.offsetWidth && one.offsetHeight < 24).length"
    )
    assert small == 0, "buttons can be hit with a finger"
    contents = {
        "Search": HITS,
        "Classify": "#choose",
        "Map": "canvas",
        "Report": "#report, main [role=status]",
        "Status": "#outcomes",
    }
    for name, content in contents.items():
        one.tab(name)
        expect(one.page.locator(content).first).to_be_visible()
        assert one.page.evaluate("document.documentElement.scrollWidth") <= 390, f"{name} is too wide"
    context.close()
