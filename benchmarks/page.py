"""The page in Chromium, as people meet it: its weight and its speed on the stamps, photos of 24 megapixels, 100,000 items.

The server runs in a process of its own. Times are taken in the browser: from the beginning of the navigation until the field for
words and the first card are there, and from Enter until the first card of the answer is. Frames are counted while the grid scrolls and
the map is dragged, in a Chromium without a window, which draws without a graphics card.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from playwright.sync_api import Browser, CDPSession, Page, sync_playwright

import chiasm
from benchmarks import index, record
from benchmarks.corpora import benchmarks_folder, pairs, say
from benchmarks.serve import served
from chiasm.demo import stamps_root
from chiasm.files import digest_file
from chiasm.space import Space
from chiasm.store.collection import FILES, ITEMS, Collection, Vectors
from chiasm.types import Modality
from chiasm.verbs.spaces import SavedSpace, open_table, save_space

ITEMS_OF_MANY = 100_000
PICTURES = 500  # files that these items share
PHOTOS = 24
QUERIES = 40
ROUNDS = 5
WITHOUT_ENCODERS = "import sys; from chiasm import encoders; encoders.resolve = lambda *_, **__: []; "

# When the field and a card are there; when the first card after Enter is another one than before.
TIMES = """
const first = () => document.querySelector("#results .card")?.dataset.id;
let asked = null;
new MutationObserver(() => {
    if (!window.interactive && document.querySelector("#words") && first()) window.interactive = performance.now();
    if (asked && first() && !document.contains(asked.card)) { window.answered = performance.now() - asked.at; asked = null; }
}).observe(document, { childList: true, subtree: true });
document.addEventListener("keydown", (event) => {
    if (event.key === "Enter") asked = { at: performance.now(), card: document.querySelector("#results .card") };
}, true);
"""
FRAMES = """(seconds) => new Promise((done) => {
    const begin = performance.now();
    const gaps = [];
    let last = begin;
    const next = (now) => {
        gaps.push(now - last);
        last = now;
        if (now - begin < 1000 * seconds) requestAnimationFrame(next); else done(gaps.slice(1));
    };
    requestAnimationFrame(next);
})"""


def main() -> None:
    captions = pairs("stamps").captions.tolist()
    with browsing() as browser, tempfile.TemporaryDirectory() as name:
        rows = stamps(browser, captions)
        rows += photos(browser, Path(name))
        rows += many(browser, Path(name))
    body = f"Load of the machine meanwhile {os.getloadavg()[2]:.1f}.\n\n" + record.table(
        ("what", "measured", "asked"), rows
    )
    record.write("page", "The page in a browser", "0", body)


@contextmanager
def browsing() -> Iterator[Browser]:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=found, args=sandbox)
        yield browser
        browser.close()


@contextmanager
def page_of(browser: Browser, url: str, **options: Any) -> Iterator[tuple[Page, dict[str, list[float]]]]:
    """A loaded page, and the bytes over the wire of all that it asked for, by whether it is a picture."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, **options)
    page = context.new_page()
    page.add_init_script(TIMES)
    sizes: dict[str, list[float]] = {"pictures": [], "rest": []}
    watch(context.new_cdp_session(page), sizes)
    page.goto(url)
    page.wait_for_function("() => window.interactive")
    page.wait_for_load_state("networkidle")
    yield page, sizes
    context.close()


def watch(session: CDPSession, sizes: dict[str, list[float]]) -> None:
    kinds: dict[str, str] = {}
    session.send("Network.enable")
    session.on("Network.responseReceived", lambda event: kinds.__setitem__(event["requestId"], event["type"]))

    def finished(event: Any) -> None:
        sizes["pictures" if kinds.get(event["requestId"]) == "Image" else "rest"].append(event["encodedDataLength"])

    session.on("Network.loadingFinished", finished)


def stamps(browser: Browser, captions: Sequence[str]) -> list[list[object]]:
    """Weight, requests and times on the captioned stamps."""
    root = str(stamps_root(say))
    with served(benchmarks_folder() / "stamps", roots=[root]) as (url, _, _):
        with page_of(browser, url):  # previews are made
            pass
        interactive = []
        for _ in range(ROUNDS):
            with page_of(browser, url) as (page, sizes):
                interactive.append(page.evaluate("window.interactive"))
        with page_of(browser, url) as (page, _):
            answered = []
            for caption in [*dict.fromkeys(captions)][: QUERIES + 5]:  # the same words again are no new search
                page.fill("#words", caption)
                page.evaluate("window.answered = 0")
                page.press("#words", "Enter")
                page.wait_for_function("() => window.answered")
                answered.append(page.evaluate("window.answered"))
            p50, p95 = np.percentile(answered[5:], [50, 95])
    return [
        ["page without pictures, KB", f"{sum(sizes['rest']) / 1e3:.0f}", "83,000 with Gradio"],
        ["requests without pictures", len(sizes["rest"]), "110 with Gradio"],
        [
            "pictures of the first screens, KB (number)",
            f"{sum(sizes['pictures']) / 1e3:.0f} ({len(sizes['pictures'])})",
            "",
        ],
        ["interactive, ms, best of five", f"{min(interactive):.0f}", "under 1,000"],
        ["first result after Enter, ms, p50 (p95)", f"{p50:.0f} ({p95:.0f})", "under 150"],
    ]


def photos(browser: Browser, folder: Path) -> list[list[object]]:
    """Bytes of a screen of large photos."""
    rng = np.random.default_rng(0)
    media = folder / "photos"
    media.mkdir()
    noise = rng.normal(0, 6, (4000, 6000, 1)).astype(np.int16)  # of a sensor, without which a photo is small
    for number in range(PHOTOS):
        coarse = Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((6000, 4000), Image.Resampling.BICUBIC), dtype=np.int16)
        photo = Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))
        photo.save(media / f"{number:02}.jpg", quality=90)
    size = sum(path.stat().st_size for path in media.iterdir())
    chiasm.add([media], to=folder / "photos.chiasm")
    with served(folder / "photos.chiasm") as (url, _, _), page_of(browser, url, device_scale_factor=2) as (_, sizes):
        sent = sum(sizes["pictures"])
    return [
        [f"{PHOTOS} photos of 24 megapixels, MB on disk", f"{size / 1e6:.0f}", ""],
        ["their screen over the wire at twice the density, MB", f"{sent / 1e6:.2f}", "under 2"],
    ]


def many(browser: Browser, folder: Path) -> list[list[object]]:
    """Scrolling, counting and the map over 100,000 items."""
    write_many(folder)
    with (
        served(folder / "many", setup=WITHOUT_ENCODERS, roots=[str(folder)]) as (url, _, _),
        page_of(browser, url) as (page, _),
    ):
        opened = page.evaluate("window.interactive")
        page.mouse.move(800, 500)
        page.evaluate(f"() => {{ window.frames_ = ({FRAMES})(5); }}")
        for _ in range(50):
            page.mouse.wheel(0, 400)
            page.wait_for_timeout(90)
        scrolled = page.evaluate("window.frames_")
        cards = page.locator("#results .card").count()
        page.evaluate("window.scrollTo(0, 0)")
        page.goto(f"{url}/?is.colour=red")
        page.wait_for_function("() => window.interactive")
        filtered = page.evaluate("window.interactive")
        page.goto(f"{url}/?map=1&by=colour")
        page.wait_for_selector("canvas[data-ms]")
        drawn = page.evaluate("performance.now()")
        box = page.locator("canvas").bounding_box()
        assert box is not None
        middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(*middle)
        page.mouse.down()
        page.evaluate(f"() => {{ window.frames_ = ({FRAMES})(3); }}")
        for step in range(120):
            page.mouse.move(middle[0] + 80 * np.sin(step / 8), middle[1] + 80 * np.cos(step / 8))
        dragged = page.evaluate("window.frames_")
        page.mouse.up()
        milliseconds = float(str(page.locator("canvas").get_attribute("data-ms")))
    return [
        [f"{ITEMS_OF_MANY:,} items: page with its first cards, ms", f"{opened:.0f}", ""],
        ["a filter applied, page loaded anew, ms", f"{filtered:.0f}", ""],
        [f"scrolling ({cards} cards by the end): frames a second", f"{1000 / np.mean(scrolled):.0f}", "60"],
        ["95 % of the frames within, ms", f"{np.percentile(scrolled, 95):.0f}", ""],
        [f"map of {ITEMS_OF_MANY:,} points, from the address until it is drawn, ms", f"{drawn:.0f}", ""],
        ["map drawn once, ms (mean)", f"{milliseconds:.1f}", "under 16.7"],
        ["map dragged: frames a second", f"{1000 / np.mean(dragged):.0f}", "60"],
    ]


def write_many(folder: Path) -> None:
    """Write a collection of many items that share some pictures, with generated vectors, through the store's own tables."""
    rng = np.random.default_rng(0)
    media = folder / "pictures"
    media.mkdir()
    shared = []
    for number in range(PICTURES):
        path = media / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((256, 256)).save(path)
        shared.append((str(path), digest_file(path)))
    index.ROWS = ITEMS_OF_MANY
    source = index.Source(0)
    collection = Collection.create(folder / "many", encoder=index.ENCODER)
    ids = [f"item-{number:06}" for number in range(ITEMS_OF_MANY)]
    paths = [shared[number % PICTURES][0] for number in range(ITEMS_OF_MANY)]
    hashes = [shared[number % PICTURES][1] for number in range(ITEMS_OF_MANY)]
    count, none = len(ids), [None] * len(ids)
    lists = {name: pa.nulls(count, ITEMS.field(name).type) for name in ("text", "audio", "video")}
    columns = {
        "id": ids,
        "_source": ["generated"] * count,
        "image": pa.array([[path] for path in paths], ITEMS.field("image").type),
        **lists,
        "price": rng.integers(0, 1000, count),
        "colour": rng.choice(["red", "green", "blue", "grey"], count),
    }
    files = {
        "item": ids, "slot": ["image/0"] * count, "modality": ["image"] * count, "path": paths, "size": none, "mtime_ns": none,
        "hash": hashes, "encoder": [index.ENCODER] * count, "outcome": ["ok"] * count, "reason": none,
    }  # fmt: skip
    nan = np.full(count, np.nan)
    image: Modality = "image"
    vectors = Vectors(
        tuple(ids),
        ("image/0",) * count,
        (image,) * count,
        tuple(hashes),
        (None,) * count,
        source.draw(count),
        (None,) * count,
        nan,
        nan,
    )
    with collection.tables.writing():
        collection.tables.append(f"embeddings-{index.ENCODER}", vectors.as_table())
        collection.tables.append(collection.generation.files, pa.table(files, schema=FILES))
        collection.tables.append("items", pa.table(columns))
    space = Space(
        "generated", index.DIM, {"image": index.ENCODER}, {"image": "identity"}, {"centre": np.zeros(index.DIM, np.float32)},
        created="2026-01-01",
    )  # fmt: skip
    save_space(collection.path / "spaces" / space.name, SavedSpace(space))
    open_table(collection, space)


if __name__ == "__main__":
    main()
