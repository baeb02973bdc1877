"""A model as one HTML page, in Chromium from a file: the same answers, no request, and everybody can use it."""

from __future__ import annotations

import base64
import csv
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from axe import axe_source, findings
from npm import npm_files
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Page, expect
from test_bundles import ORT_WEB, drawn
from test_page_browser import browser  # noqa: F401  # a fixture

import chiasm
from chiasm.errors import ChiasmError
from chiasm.predict_script import Bundle
from chiasm.shipping.web import runtime_files, runtime_folder


@pytest.fixture(scope="module")
def runtime(cache: Path) -> Path:
    """ONNX Runtime for browsers, where an export looks for it."""
    shutil.copytree(npm_files(*ORT_WEB), runtime_folder(), dirs_exist_ok=True)
    assert runtime_folder().is_relative_to(cache)
    return runtime_folder()


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of two shapes with captions: as many as an alarm at one in twenty needs."""
    root = tmp_path_factory.mktemp("web") / "media"
    drawn(root, ("red", "green", "blue", "orange", "purple", "black", "brown", "pink", "navy", "teal", "gold", "gray"))
    return root


@pytest.fixture(scope="module")
def collection(media: Path) -> Path:
    chiasm.add([media], to=media.parent / "index")
    return media.parent / "index"


@pytest.fixture(scope="module")
def model(collection: Path) -> Path:
    chiasm.fit(collection, label="label", out=collection.parent / "shapes")
    return collection.parent / "shapes"


@pytest.fixture(scope="module")
def page_file(model: Path, runtime: Path) -> Path:
    report = chiasm.export(model, out=model.parent / "shapes.html")
    assert (report.format, report.notes) == ("html", ("open it in a browser",))
    assert report.size == Path(report.path).stat().st_size
    return Path(report.path)


@pytest.fixture
def page(page_file: Path, browser: Browser) -> Iterator[Page]:  # noqa: F811
    """The page from its file, with no network; whatever it complains of fails the test."""
    context = browser.new_context(offline=True)
    one = context.new_page()
    asked: list[str] = []
    errors: list[str] = []
    one.on("request", lambda request: asked.append(request.url))
    one.on("pageerror", lambda error: errors.append(str(error)))
    one.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    one.goto(page_file.as_uri())
    expect(one.locator("#status")).to_have_text("Ready.")
    yield one
    context.close()
    assert errors == []
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [page_file.as_uri()]


def answer(page: Page, path: Path) -> tuple[str, dict[str, float]]:
    """Return what the page says of a picture: the words, and probabilities by class."""
    page.locator("#files").set_input_files(path)
    expect(page.locator("#status")).to_contain_text(f"{path.name}:")
    first = page.locator("article").first
    rows = first.locator("li").evaluate_all(
        "all => all.map(one => [one.querySelector('span').textContent, Number(one.querySelector('data').value)])"
    )
    return first.locator("h2").inner_text(), dict(rows)


def test_the_same_answers_as_the_model(page: Page, model: Path, media: Path, tmp_path: Path) -> None:
    """Small, large and turned pictures, one with a transparent ground, and one that is like none of the classes."""
    red = Image.open(media / "circle" / "red.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    red.rotate(90, expand=True).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    red.resize((red.width * 13, red.height * 13)).save(tmp_path / "large.webp", quality=95)
    clear = Image.new("RGBA", (300, 300))
    ImageDraw.Draw(clear).ellipse((50, 50, 250, 250), fill="teal")
    clear.save(tmp_path / "clear.png")
    noise = np.random.default_rng(0).integers(0, 255, (250, 400, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    paths = [media / "square" / "blue.png", *sorted(tmp_path.iterdir())]
    chiasm.export(model, out=tmp_path.parent / "shapes.chiasm")
    answers = Bundle(tmp_path.parent / "shapes.chiasm").recognise([{"image": [path]} for path in paths], 0.9, 0.05)[0]
    told = {path.name: answer(page, path) for path in paths}
    for path, own in zip(paths, answers, strict=True):
        expected = own["columns"]["label"]
        words, probabilities = told[path.name]
        assert words == ("unknown" if expected["unknown"] else expected["value"]), path.name
        assert probabilities == pytest.approx(expected["probabilities"], abs=0.05), path.name
    assert told["noise.png"][0] == "unknown"


def test_what_is_no_picture_is_said_and_the_next_is_recognised(page: Page, media: Path, tmp_path: Path) -> None:
    (tmp_path / "<b>.png").write_bytes(b"this is no picture")
    page.locator("#files").set_input_files([tmp_path / "<b>.png", media / "circle" / "red.png"])
    expect(page.locator("#status")).to_contain_text("red.png: circle")
    expect(page.locator("article .bad")).to_contain_text("<b>.png cannot be read")


def test_a_picture_is_dropped(page: Page, media: Path) -> None:
    content = base64.b64encode((media / "square" / "red.png").read_bytes()).decode()
    dropped = page.evaluate_handle(
        """(content) => {
            const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0)), dropped = new DataTransfer();
            dropped.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
            return dropped;
        }""",
        content,
    )
    page.dispatch_event("main", "drop", {"dataTransfer": dropped})
    expect(page.locator("#status")).to_contain_text("dropped.png: square")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_it_fits_and_can_be_used_by_everybody(
    page: Page, media: Path, width: int, scheme: Literal["light", "dark"]
) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "files"
    answer(page, media / "circle" / "red.png")
    page.locator("summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert findings(page, axe_source()) == []


def test_numbers_and_several_labels(
    collection: Path,
    media: Path,
    runtime: Path,
    browser: Browser,  # noqa: F811
    tmp_path: Path,
) -> None:
    rows = [{"image": path, "size": f"{number % 8}.5", "tags": f"{path.parent.name}; {'warm' if number % 2 else 'cold'}"}
            for number, path in enumerate(sorted(media.rglob("*.png")))]  # fmt: skip
    with (tmp_path / "items.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)
    chiasm.add([tmp_path / "items.csv"], to=tmp_path / "items")
    picture = media / "circle" / "red.png"
    for label in ("size", "tags"):
        chiasm.fit(tmp_path / "items", label=label, out=tmp_path / label)
        for out in (f"{label}.html", f"{label}.chiasm"):
            chiasm.export(tmp_path / label, out=tmp_path / out)
        expected = Bundle(tmp_path / f"{label}.chiasm").recognise([{"image": [picture]}], 0.9, 0.05)[0][0]["columns"][
            label
        ]
        one = browser.new_page()
        one.goto((tmp_path / f"{label}.html").as_uri())
        words, probabilities = answer(one, picture)
        if label == "size":
            assert float(words) == pytest.approx(expected["value"], abs=0.1)
        else:
            assert words == (expected["value"] or "none of the labels")
            assert probabilities == pytest.approx(expected["probabilities"], abs=0.05)
        one.close()


def test_what_has_no_page_says_why(collection: Path, tmp_path: Path) -> None:
    chiasm.fit(collection, label="label", out=tmp_path / "words", modalities=["text"])
    with pytest.raises(ChiasmError, match="no build for browsers"):
        chiasm.export(tmp_path / "words", out=tmp_path / "words.html")
    with pytest.raises(ChiasmError, match="budget, on: not for"):
        chiasm.export(tmp_path / "words", out=tmp_path / "words.html", budget="30MB", on=collection)


# --------------------------------------------------------------------------------------------------------- the runtime


def npm_of(folder: Path, lines: str) -> str:
    """Return a PATH with a program named npm alone."""
    folder.mkdir(exist_ok=True)
    program = folder / "npm"
    program.write_text(f"#!{sys.executable}\n{lines}\n", encoding="utf-8")
    program.chmod(0o755)
    return str(folder)


PACKS = """
import io, tarfile
with tarfile.open("a.tgz", "w:gz") as archive:
    for name in {names}:
        archive.addfile(tarfile.TarInfo("package/dist/" + name), io.BytesIO())
"""


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (None, "there is no npm"),
        ("import sys; sys.exit('npm error ENOTFOUND')", "ENOTFOUND"),
        (PACKS.format(names=[]), "did not give"),
        ("open('a.tgz', 'w').close()", "did not give"),
        (PACKS.format(names=[Path(name).name for name in ORT_WEB[2]]), "by its digest"),
    ],
)
def test_a_runtime_that_cannot_be_had(
    lines: str | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", npm_of(tmp_path / "bin", lines) if lines else "")
    with pytest.raises(ChiasmError, match=words):
        runtime_files()
