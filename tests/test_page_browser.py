"""The page in a real browser: Debian's Chromium without a window, against a real server on a free port of loopback."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pyarrow as pa
import pytest
from axe import axe_source, findings
from fake_searcher import FakeSearcher, item_row, png
from listening import listening
from page_parts import EVIL, EVIL_ID, Made, make, rising
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright
from waiting import LIMIT

from chiasm.encoders.licence import PretrainedModel
from chiasm.errors import CollectionError
from chiasm.serving.app import create_app
from chiasm.serving.settings import Settings
from chiasm.store.where import where_sql

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
        self.page.locator("#words").fill(words)
        with self.page.expect_response("**/v1/search*"):
            self.page.locator("#words").press("Enter")
        expect(self.hits.first).to_be_visible()

    def act(self, item: str, act: str) -> None:
        """Press a button of a card, which is shown while the pointer is over it."""
        self.card(item).hover()
        self.card(item).locator(f"[data-act={act}]").click()


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
    seen.page.locator("#words").focus()
    seen.page.keyboard.type("a red square")
    seen.page.keyboard.press("Enter")
    expect(seen.hits.first).to_have_attribute("data-id", "red")
    image = seen.hits.first.locator("img")
    address = urlsplit(str(image.get_attribute("src")))
    assert address.path == "/v1/items/red/files/image/0"
    assert {"v", "size"} <= set(parse_qs(address.query)), "a preview, and not the file"
    image.evaluate("one => one.decode()")
    assert image.evaluate("one => one.naturalWidth") == 16
    for _ in range(40):
        seen.page.keyboard.press("Tab")
        if seen.page.evaluate("document.activeElement.dataset.act") == "up":
            break
    assert seen.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    seen.page.keyboard.press("Enter")
    expect(seen.page.locator(".chips")).to_contain_text("1 rated")


def test_a_card_says_the_words_of_the_item_and_how_sure_the_hit_is(seen: Visit) -> None:
    seen.search("a red square")
    expect(seen.hits.first.locator(".caption")).to_have_text("a red square")
    expect(seen.hits.first.locator(".worth")).not_to_be_empty()
    assert seen.hits.first.locator("img").get_attribute("alt") == "a red square"


def test_the_address_is_the_state(seen: Visit, context: BrowserContext, address: str) -> None:
    seen.search("a red square -pinkish")
    expect(seen.page.locator(".chips")).to_contain_text("not pinkish")
    seen.page.locator("[data-column=label] label", has_text="warm").click()
    expect(seen.hits).to_have_count(2)
    seen.act("red", "like")
    expect(seen.page.locator(".chips")).to_contain_text("like red")
    expect(seen.hits).to_have_count(1)
    link = urlsplit(seen.page.url).query
    seen.page.go_back()
    expect(seen.page.locator(".chips")).to_contain_text("not pinkish")
    expect(seen.page.locator("#words")).to_have_value("a red square")
    seen.page.go_back()
    expect(seen.page.locator("[data-column=label] input:checked")).to_have_count(0)
    other = visit(context, address, f"?{link}")
    expect(other.page.locator(".chips")).to_contain_text("like red")
    expect(other.page.locator("[data-column=label] input:checked")).to_have_count(1)
    expect(other.hits).to_have_count(1)
    other.page.close()


def test_a_search_with_a_file_has_an_address_that_others_can_open(
    seen: Visit, context: BrowserContext, address: str
) -> None:
    seen.page.locator("#file").set_input_files(picture("x.png", (20, 20, 230)))
    expect(seen.page.locator(".chips")).to_contain_text("x.png")
    expect(seen.hits.first).to_have_attribute("data-id", "blue")
    assert seen.items()[:2] == ["blue", "sky"]
    other = visit(context, address, f"?{urlsplit(seen.page.url).query}")
    expect(other.hits.first).to_have_attribute("data-id", "blue")
    other.page.locator(".chip button").click()
    expect(other.page.locator(".chips")).to_have_count(0)
    other.page.close()


def test_a_picture_is_dropped_and_pasted(seen: Visit) -> None:
    data = list(png((230, 20, 20)))
    event = """([kind, bytes]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], kind + ".png", { type: "image/png" }));
        const target = kind === "drop" ? document.getElementById("view") : document;
        const event = kind === "drop" ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
            : new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
        target.dispatchEvent(event);
    }"""
    for kind in ("drop", "paste"):
        seen.page.evaluate(event, [kind, data])
        expect(seen.page.locator(".chips")).to_contain_text(f"{kind}.png")
        expect(seen.hits.first).to_have_attribute("data-id", "red")
        seen.page.locator(".brand").click()
        expect(seen.page.locator(".chips")).to_have_count(0)


def test_what_there_is_is_counted_and_narrowed_down(seen: Visit) -> None:
    expect(seen.page.locator("#total")).to_have_text("9 items")
    label = seen.page.locator("[data-column=label]")
    expect(label.locator("label", has_text="warm")).to_contain_text("2")
    label.locator("label", has_text="warm").click()
    expect(seen.page.locator("#total")).to_have_text("2 items")
    expect(seen.hits).to_have_count(2)
    assert set(seen.items()) == {"red", "rose"}
    expect(label.locator("label", has_text="cold")).to_contain_text("4")
    seen.page.locator("#unfilter").click()
    expect(seen.page.locator("#total")).to_have_text("9 items")
    seen.page.locator("[data-has=audio]").click()
    expect(seen.page.locator("#total")).to_have_text("2 items")
    expect(seen.hits).to_have_count(2)
    assert set(seen.items()) == {"falling", "rising"}
    seen.page.locator("#unfilter").click()
    expect(seen.page.locator("#total")).to_have_text("9 items")
    seen.page.locator("summary", has_text="More").click()
    seen.page.locator("#where").fill("label = 'warm'")
    seen.page.locator("#where").press("Enter")
    expect(seen.page.locator("#total")).to_have_text("2 items")
    seen.page.locator("#where").fill("label =")
    seen.page.locator("#where").press("Enter")
    expect(seen.page.locator("#results .problem")).to_contain_text("cannot be used")


def test_a_sound_is_looked_for_and_its_player_jumps_to_the_moment(seen: Visit) -> None:
    files: list[Any] = [{"name": "x.wav", "mimeType": "audio/wav", "buffer": rising()}]
    seen.page.locator("#file").set_input_files(files)
    expect(seen.hits.first).to_have_attribute("data-id", "rising")
    seen.card("falling").locator("a.open").click()
    item = seen.page.locator("#item")
    expect(item.locator("audio")).to_have_attribute("src", "/v1/items/falling/files/audio/0#t=2.0,3.0")
    expect(item.locator(".mark")).to_have_count(3)
    item.locator(".mark").nth(1).click()
    seen.page.wait_for_function("() => document.querySelector('#item audio').currentTime >= 1")


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
    seen.act(chosen, "up")
    expect(seen.page.locator(".chips")).to_contain_text("1 rated")
    expect(seen.card(chosen)).to_have_count(0)
    assert seen.items() != [name for name in before if name != chosen]
    assert made.kept.thumbs == [(chosen, "up", "grass", "address 127.0.0.1")]
    seen.page.get_by_role("button", name="Remove ratings").click()
    expect(seen.card(chosen)).to_have_count(1)


def test_an_item_is_looked_at_and_left_with_the_keyboard(seen: Visit, made: Made) -> None:
    seen.search("a red square")
    first, second = seen.items()[:2]
    seen.hits.first.locator("a.open").focus()
    seen.page.keyboard.press("Enter")
    item = seen.page.locator("#item")
    expect(item.locator("h2")).to_have_text("a red square")
    expect(item).to_contain_text("Why:")
    expect(item.locator("#neighbours a").first).to_be_visible()
    expect(item.locator(".files a")).to_have_attribute("download", "")
    link = seen.page.url
    seen.page.keyboard.press("ArrowRight")
    expect(item.locator(".id")).to_have_text(second)
    seen.page.keyboard.press("ArrowLeft")
    expect(item.locator(".id")).to_have_text(first)
    item.locator("input[name=label]").fill("crimson")
    item.locator("input[name=label]").press("Enter")
    expect(seen.page.locator("#toast")).to_contain_text("crimson")
    assert made.kept.labels[-1] == (first, "crimson", "address 127.0.0.1")
    seen.page.keyboard.press("Escape")
    expect(item).not_to_be_visible()
    seen.page.goto(link)
    expect(item.locator(".id")).to_have_text(first)


def test_the_page_says_why(seen: Visit) -> None:
    seen.search("a red square")
    seen.hits.first.locator("a.open").click()
    item = seen.page.locator("#item")
    expect(item.locator("#why-answer")).to_have_attribute("aria-pressed", "false")
    assert not any("explanation" in url for url in seen.asked), "only on demand"
    item.locator("#why-answer").focus()
    seen.page.keyboard.press("Enter")
    expect(item.locator("mark.speaks.against")).to_have_text("square")
    expect(item.locator(".shares").first).to_contain_text("+1.75")
    expect(item).to_contain_text("For: top left +1.50.")
    expect(item).to_contain_text("In log-odds: +1.00 in all.")
    expect(item).to_contain_text("lowers the answer by 0.070 ± 0.020 more than a random order")
    expect(item).to_contain_text("Measured on items <b>not learned from.")
    examples = item.locator("section", has=seen.page.locator("h4", has_text="Learned from")).locator("ul.strip a")
    expect(examples.locator("img")).to_have_count(2)
    expect(examples.first).to_have_attribute("title", "rose")
    heat = item.locator(".heat")
    expect(heat).to_be_visible()
    # What lies over the picture covers it, and its first place speaks for the answer.
    boxes = [one.bounding_box() for one in (heat, item.locator(".picture img"))]
    assert boxes[0] == boxes[1]
    colours = heat.evaluate("one => [2, 50].map(at => [...one.getContext('2d').getImageData(at, at, 1, 1).data])")
    assert colours == [[217, 72, 15, 255], [0, 0, 0, 0]]
    item.get_by_role("button", name="On the picture").click()
    expect(heat).not_to_be_visible()
    item.locator("#explained-answer").select_option("cold")
    expect(heat).to_be_visible()
    expect(item).to_contain_text("cold 10 %")
    seen.page.reload()
    expect(item.locator("mark.speaks").first).to_be_visible()
    seen.page.locator("#item").press("ArrowRight")
    expect(item.locator(".id")).not_to_have_text("red")
    expect(item.locator("mark.speaks").first).to_be_visible()
    item.locator("#why-words").click()
    expect(item).to_contain_text("cosine with “a red square”")
    expect(heat).to_be_visible()
    expect(item.locator("mark.speaks")).to_have_count(0)
    item.locator("#why-words").click()
    expect(heat).to_have_count(0)
    assert "why" not in parse_qs(urlsplit(seen.page.url).query)


def test_items_are_chosen_put_on_a_list_and_taken_along(seen: Visit, made: Made) -> None:
    pick = '[data-id="{}"] .pick'
    seen.page.locator(pick.format("blue")).check(force=True)
    seen.page.locator(pick.format("rose")).click(force=True, modifiers=["Shift"])
    count = seen.items().index("rose") - seen.items().index("blue") + 1
    bar = seen.page.locator(".selected")
    expect(bar).to_contain_text(f"{count} items selected")
    bar.locator("#add-to-list").click()
    seen.page.locator("dialog[open] input").fill("for later")
    seen.page.keyboard.press("Enter")
    expect(seen.page.locator("#toast")).to_contain_text(f"has {count} items")
    seen.page.locator("#facets label", has_text="for later").click()
    expect(seen.page.locator("#total")).to_have_text(f"{count} items")
    assert "list=for+later" in seen.page.url
    seen.page.locator(pick.format("blue")).check(force=True)
    bar.locator("#select-all").click()
    expect(bar).to_contain_text(f"{count} items selected")
    with seen.page.expect_download() as download:
        bar.locator("#csv").click()
    assert download.value.suggested_filename == "collection.csv"
    assert len(download.value.path().read_text().strip().splitlines()) == count + 1
    seen.page.locator("#toast").evaluate("one => one.textContent = ''")
    bar.locator("#label").click()
    seen.page.locator("dialog[open] input").fill("grey")
    seen.page.keyboard.press("Enter")
    expect(seen.page.locator("#toast")).to_contain_text("labelled “grey”")
    assert made.kept.labels[-count:] == [(name, "grey", "address 127.0.0.1") for name in seen.items()]
    seen.page.locator("#delete-list").click()
    expect(seen.page.locator("#total")).to_have_text("9 items")


def test_hostile_captions_and_ids_do_nothing(seen: Visit) -> None:
    seen.search(EVIL)
    assert seen.items()[0] == EVIL_ID
    expect(seen.hits.first.locator(".caption")).to_contain_text("<script>window.hacked=1</script>")
    seen.hits.first.locator("img").evaluate("one => one.decode()")
    seen.hits.first.locator("a.open").click()
    expect(seen.page.locator("#item h2")).to_contain_text("<script>")
    seen.page.locator("#why-answer").click()
    expect(seen.page.locator("mark.speaks").first).to_contain_text("<script>")
    seen.page.keyboard.press("Escape")
    seen.hits.first.hover()
    seen.hits.first.locator("[data-act=like]").click()
    expect(seen.page.locator(".chips")).to_contain_text(EVIL_ID)
    assert EVIL_ID not in seen.items()
    seen.page.locator("#show-map").click()
    expect(seen.page.locator("canvas")).to_be_visible()
    seen.tab("Health")
    expect(seen.page.locator("#drift")).to_contain_text("<b>new items differ")
    assert seen.page.evaluate("window.hacked") is None


def test_an_event_handler_that_gets_into_the_page_is_stopped_by_its_policy(
    context: BrowserContext, address: str
) -> None:
    one = visit(context, address)
    expect(one.hits.first).to_be_visible()
    with one.page.expect_console_message(lambda message: "Content Security Policy" in message.text):
        one.page.evaluate(
            "document.body.insertAdjacentHTML('beforeend', '<img id=evil src=\"/none\" onerror=\"window.hacked=1\">')"
        )
    one.page.wait_for_function("() => document.getElementById('evil').complete")
    assert one.page.evaluate("window.hacked") is None
    one.page.close()


def test_files_are_recognised_and_corrected(seen: Visit, made: Made) -> None:
    seen.tab("Teach")
    seen.page.locator("#drop").set_input_files([*picture("a.png", (250, 10, 10)), *picture("b.png", (90, 90, 90))])
    cards = seen.page.locator("#predictions .card")
    expect(cards).to_have_count(2)
    expect(cards.first.locator(".prediction")).to_have_text("warm 90 %")
    expect(cards.last.locator(".prediction")).to_contain_text("unknown")
    expect(cards.last.locator("input")).to_have_value("")
    cards.last.locator("input").fill("grey")
    cards.last.locator("input").press("Enter")
    expect(cards.last).to_contain_text("Kept: grey")
    assert made.kept.files[-1] == (png((90, 90, 90)), ".png", "grey")


def test_doubtful_items_are_labelled_with_number_keys_and_learned_from(seen: Visit, made: Made) -> None:
    seen.tab("Teach")
    desk = seen.page.locator("#desk")
    expect(desk.locator(".why")).to_have_text("Probably labelled wrong")
    expect(desk).to_contain_text("Labelled warm. The model says cold (80 %).")
    expect(desk.locator("input[name=label]")).to_have_value("")
    expect(seen.page.locator("#until")).to_have_text("11 more until the next learning")
    seen.page.keyboard.press("2")
    expect(desk.locator(".why")).to_have_text("The model is unsure")
    assert made.kept.labels[-1] == ("rose", "cold", "address 127.0.0.1")
    expect(seen.page.locator("#until")).to_have_text("10 more until the next learning")
    seen.page.keyboard.press("u")
    expect(desk.locator(".why")).to_have_text("Probably labelled wrong")
    expect(seen.page.locator("#until")).to_have_text("11 more until the next learning")
    assert made.kept.labels[-1] == ("rose", "warm", "address 127.0.0.1")
    seen.page.locator("#learn").click()
    expect(seen.page.locator("#learned")).to_contain_text("The new model replaces the old one")
    expect(seen.page.locator("#learned")).to_contain_text("0.700 before, 0.800 now")
    assert made.kept.learned == 1


def test_the_map_is_walked_with_the_keyboard_and_a_lasso_narrows_down_the_grid(seen: Visit) -> None:
    seen.page.locator("#show-map").click()
    expect(seen.page.locator("#total")).to_have_text("9 items")
    canvas = seen.page.locator("canvas")
    canvas.focus()
    names = set()
    for _ in range(6):
        seen.page.keyboard.press("ArrowRight")
        names.add(seen.page.locator("#map .hover b").first.text_content())
    assert len(names) == 6
    seen.page.keyboard.press("Enter")
    expect(seen.page.locator("#item")).to_be_visible()
    seen.page.keyboard.press("Escape")
    seen.page.locator("#lasso").click()
    box = canvas.bounding_box()
    assert box is not None
    corners = [(0.01, 0.01), (0.99, 0.01), (0.99, 0.99), (0.01, 0.99)]
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
    seen.page.mouse.move(*places[0])
    seen.page.mouse.down()
    for place in places[1:]:
        seen.page.mouse.move(*place, steps=4)
    seen.page.mouse.up()
    expect(seen.page.locator("#total")).to_have_text("6 items")
    assert "lasso=" in seen.page.url
    seen.page.get_by_role("button", name="Remove the lasso").click()
    expect(seen.page.locator("#total")).to_have_text("9 items")


def test_the_report_and_the_health_are_shown(seen: Visit, made: Made) -> None:
    reports = made.searcher.collection.path / "reports"
    reports.mkdir(exist_ok=True)
    (reports / "one.html").write_text("<h1>Recall is fine</h1>")
    seen.tab("Report")
    expect(seen.page.frame_locator("#report").locator("h1")).to_have_text("Recall is fine")
    made.searcher.collection.keep_models(
        [PretrainedModel("somebody/tiny", "", "MIT", "README.md", 2_000_000, None, ("text",))]
    )
    seen.page.reload()
    seen.tab("Health")
    expect(seen.page.locator("#sentence")).to_contain_text("1 file could not be used")
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
    expect(one.page.locator("#shoot")).to_be_visible()
    contents = {
        "Search": HITS,
        "Teach": "#choose",
        "Report": "#report, main h2",
        "Health": "#outcomes",
    }
    for name, content in contents.items():
        one.tab(name)
        expect(one.page.locator(content).first).to_be_visible()
        assert one.page.evaluate("document.documentElement.scrollWidth") <= 390, f"{name} is too wide"
    context.close()


STATES = {
    "items": ("", HITS),
    "search": ("?text=a+red+square&minus=pink&like=blue", f"{HITS} .worth"),
    "filtered": ("?is.label=warm&has=image&where=label+IS+NOT+NULL", f"{HITS} img"),
    "item": ("?text=grass&item=green", "#neighbours a"),
    "why": ("?text=grass&item=green&why=answer", "mark.speaks"),
    "match": ("?text=grass&item=green&why=words", ".heat"),
    "sound": ("?item=rising", ".mark"),
    "map": ("?map=1&text=grass", "canvas[data-ms]"),
    "teach": ("?view=teach", "#desk .why"),
    "report": ("?view=report", "main h2"),
    "health": ("?view=health", "#sentence.look"),
    "manage": ("?view=manage", "#models .note"),
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 1024, 390])
def test_everybody_can_use_every_state(browser: Browser, address: str, width: int, scheme: Any) -> None:
    """No serious finding of axe-core, contrast of texts among its rules, and nothing wider than the window."""
    source = axe_source()
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    for name, (query, content) in STATES.items():
        one = visit(context, address, query)
        expect(one.page.locator(content).first).to_be_visible()
        one.page.wait_for_load_state("networkidle")
        assert findings(one.page, source) == [], name
        assert one.page.evaluate("document.documentElement.scrollWidth") <= width, name
        one.page.close()
    context.close()


def test_what_axe_looks_for_is_found_where_it_is_planted(context: BrowserContext, address: str) -> None:
    one = visit(context, address)
    expect(one.hits.first).to_be_visible()
    one.page.evaluate("""() => {
        const image = document.createElement("img");
        image.src = "/static/icon.svg";
        const words = document.createElement("p");
        words.textContent = "hardly to be read";
        words.style.color = "#ddd";
        words.style.background = "#fff";
        document.querySelector("main").append(image, words);
    }""")
    assert {one["rule"] for one in findings(one.page, axe_source())} == {"image-alt", "color-contrast"}
    one.page.close()


def test_a_collection_learns_from_the_page_and_its_model_is_chosen(context: BrowserContext, address: str) -> None:
    one = visit(context, address, "?view=manage")
    page = one.page
    page.locator("#align").click()
    expect(page.locator("#job progress")).to_have_attribute("max", "10")
    expect(page.locator("#job")).to_contain_text("3 of 10")
    assert findings(page, axe_source()) == [], "while it runs"
    page.locator("#cancel-job").click()
    expect(page.locator("#job")).to_contain_text("Cancelled")
    page.locator("#fit").click()
    expect(page.locator("#job .sentence")).to_contain_text("Off by 0.5 on average")
    assert findings(page, axe_source()) == [], "when it is over"
    page.get_by_role("button", name="Use second").click()
    expect(page.locator("#models li").nth(1)).to_contain_text("recognises now")
    page.close()


def test_collections_are_switched_and_made(context: BrowserContext, address: str) -> None:
    one = visit(context, address, "?view=manage")
    page = one.page
    page.locator("#collection").select_option("other")
    expect(one.hits.first).to_be_visible()
    assert urlsplit(page.url).path == "/c/other/"
    one.tab("Manage")
    assert urlsplit(page.url).path == "/c/other/"
    page.locator("#new-collection").fill("../up")
    page.locator("#make").click()
    expect(page.get_by_role("alert")).to_contain_text("name")
    page.locator("#new-collection").fill("third one")
    page.locator("#make").click()
    page.wait_for_url("**/c/third%20one/?view=manage")
    expect(page.locator("#shelf li")).to_have_count(3)
    page.close()


def test_a_folder_is_added_with_its_labels_and_what_cannot_be_used_is_said(
    context: BrowserContext, address: str, made: Made, tmp_path: Path
) -> None:
    for name in ("warm/sun.png", "warm/sun.txt", ".hidden/x.png"):
        (tmp_path / "some" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "some" / name).write_bytes(png((250, 200, 9)) if name.endswith("png") else b"the sun")
    before = len(made.kept.files)
    one = visit(context, address, "?view=manage")
    one.page.locator("#choose-folder-input").set_input_files(tmp_path / "some")
    expect(one.page.locator("#added")).to_contain_text("1 of 1 item added")
    assert {name for _, name, _ in made.kept.files[before:]} == {".png", ".txt"}
    one.page.close()


def test_filters_are_conditions_that_the_grammar_takes(seen: Visit) -> None:
    """Whatever columns are called and whatever stands in them; and the address comes back as it was."""
    asked = {
        'is.it\'s "odd"': ["a'b", "", "x) OR (1=1"],
        "eq.year": ["1990", "true; DROP"],
        "min.made": ["2020-01-01"],
        "max.size": ["-5.5e3"],
        "has": ["image"],
        "where": ["year > 3 OR label = 'x'"],
    }
    work = """async (query) => {
        const { conditions, read, write } = await import("/static/state.js");
        return [conditions(read(query)), write(read(query)), conditions(read(query), "year")];
    }"""
    where, link, without = seen.page.evaluate(work, urlencode(asked, doseq=True))
    kinds = {"label": pa.string(), "year": pa.int64(), "made": pa.date32(), "size": pa.float64()}
    schema = pa.schema({**kinds, 'it\'s "odd"': pa.string(), "image": pa.list_(pa.string())})
    again = parse_qs(urlsplit(link).query, keep_blank_values=True)
    assert {name: sorted(values) for name, values in again.items()} == {n: sorted(v) for n, v in asked.items()}
    with pytest.raises(CollectionError, match="'true; DROP'"):  # a text, and no number: refused, and nothing else
        where_sql(where, schema)
    sql = where_sql(without, schema)
    assert "'x) OR (1=1'" in sql and "`year` > 3" in sql and "`size` <= " in sql


def test_more_items_come_as_one_scrolls(context: BrowserContext) -> None:
    rows = [item_row(f"{number:03}", text=[f"word {number}"], year=number) for number in range(150)]
    with listening(create_app(Settings(rate=None), FakeSearcher(rows)), force=True) as ((_, port), _):
        one = visit(context, f"http://127.0.0.1:{port}", "?sort=-year")
        expect(one.hits.first).to_have_attribute("data-id", "149")
        expect(one.page.locator("[data-column=year] .histogram i")).to_have_count(20)
        while one.hits.count() < 150:
            before = one.hits.count()
            one.page.mouse.wheel(0, 20_000)
            one.page.wait_for_function(
                "(before) => document.querySelectorAll('#results .card').length > before", arg=before
            )
        assert one.items() == [f"{number:03}" for number in range(149, -1, -1)]
        expect(one.page.locator("#total")).to_have_text("150 items")
        one.page.close()
