"""The routes that the page adds to the API: its own files, the map, outcomes, teaching, the newest report."""

from __future__ import annotations

import asyncio
import base64
import os
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest
from fake_searcher import png
from page_parts import Made, make

from chiasm.serving.map import project
from chiasm.serving.page import newest_report

T = TypeVar("T")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    with pytest.MonkeyPatch.context() as patch:
        yield make(tmp_path_factory.mktemp("page"), patch)


def ask(made: Made, work: Callable[[httpx.AsyncClient], Awaitable[T]]) -> T:
    async def run() -> T:
        transport = httpx.ASGITransport(app=made.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8265") as client:
            return await work(client)

    return asyncio.run(run())


def get(made: Made, path: str, *, tag: str = "", **params: Any) -> httpx.Response:
    headers = {"If-None-Match": tag} if tag else {}
    return ask(made, lambda client: client.get(path, params=params, headers=headers))


def post(made: Made, path: str, **body: Any) -> httpx.Response:
    return ask(made, lambda client: client.post(path, **body))


def test_the_page_is_files_of_our_own_under_a_strict_policy(made: Made) -> None:
    index = get(made, "/")
    assert index.headers["content-type"] == "text/html; charset=utf-8"
    policy = index.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    assert "<style" not in index.text and "onclick" not in index.text
    for part in ("app.js", "search.js", "style.css", "icon.svg"):
        answer = get(made, f"/static/{part}")
        assert answer.status_code == 200
        assert answer.headers["x-content-type-options"] == "nosniff"
        again = get(made, f"/static/{part}", tag=answer.headers["etag"])
        assert again.status_code == 304


def test_the_reference_of_the_api_needs_nothing_from_elsewhere(made: Made) -> None:
    page = get(made, "/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"] == get(made, "/").headers["content-security-policy"]
    assert not re.findall(r"(?:src|href)=\"(?!/|#)", page.text)
    assert "<script" not in page.text and "style=" not in page.text
    document = get(made, "/openapi.json").json()
    for path, methods in document["paths"].items():
        for method in methods:
            assert f'id="{method.upper()}-{path}"' in page.text
    anchors = set(re.findall(r'id="([^"]+)"', page.text))
    assert set(re.findall(r'href="#([^"]+)"', page.text)) <= anchors


def test_every_module_is_fetched_at_once(made: Made) -> None:
    """Else each would be asked for when the one that imports it has been read."""
    static = Path(__file__).parents[1] / "chiasm" / "serving" / "static"
    modules = {path.name for path in static.glob("*.js")}
    preloaded = set(re.findall(r'modulepreload" href="/static/([a-z]+[.]js)"', get(made, "/").text))
    assert preloaded == modules


@pytest.mark.parametrize("path", ["/static/none.js", "/static/../app.py", "/static/%2e%2e%2fapp.py", "/static/"])
def test_only_the_parts_of_the_page_are_served(made: Made, path: str) -> None:
    assert get(made, path).status_code == 404


@pytest.mark.parametrize("script", ["innerHTML", "insertAdjacentHTML", "document.write", "eval("])
def test_no_script_of_the_page_makes_html_of_text(script: str) -> None:
    static = Path(__file__).parents[1] / "chiasm" / "serving" / "static"
    for path in static.glob("*.js"):
        assert script not in path.read_text(encoding="utf-8"), path.name


def test_the_map_has_a_point_an_item_with_the_value_of_the_column(made: Made) -> None:
    answer = get(made, "/v1/map", modality="image", column="label").json()
    plane = np.frombuffer(base64.b64decode(answer["xy"]), "<u2").reshape(-1, 2)
    assert answer["total"] == len(answer["ids"]) == len(plane) == 6
    assert plane.min(axis=0).tolist() == [0, 0] and plane.max(axis=0).tolist() == [65535, 65535]
    groups = dict(zip(answer["ids"], base64.b64decode(answer["groups"]), strict=True))
    assert answer["names"] == ["cold", "warm", "none"]
    assert {name for name, group in groups.items() if answer["names"][group] == "warm"} == {"red", "rose"}
    assert get(made, "/v1/map", modality="video").json() == {"ids": [], "xy": "", "names": [], "groups": "", "total": 0}
    assert get(made, "/v1/map", column="none").status_code == 422
    assert get(made, "/v1/map", layout="sphere").status_code == 422


def test_overview_is_that_of_principal_components() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 6)) * [5, 3, 1, 1, 1, 1]
    plane = project(X.astype(np.float32), "overview")
    _, _, axes = np.linalg.svd(X - X.mean(axis=0))
    for k in range(2):
        component = (X - X.mean(axis=0)) @ axes[k]
        assert abs(np.corrcoef(component, plane[:, k])[0, 1]) > 0.9999
    assert plane.min() == -1 and plane.max() == 1


def test_neighbours_stay_together() -> None:
    rng = np.random.default_rng(1)
    centres = np.repeat(rng.normal(size=(3, 8)) * 10, 15, axis=0)
    plane = project((centres + rng.normal(size=centres.shape) * 0.1).astype(np.float32), "neighbours")
    group = np.repeat(np.arange(3), 15)
    gaps = np.linalg.norm(plane[:, None] - plane[None], axis=2)
    np.fill_diagonal(gaps, np.inf)
    assert (group[gaps.argmin(axis=1)] == group).all()


@pytest.mark.parametrize("points", [0, 1, 2, 3])
def test_a_map_of_few_points_is_finite(points: int) -> None:
    plane = project(np.ones((points, 4), np.float32), "overview")
    assert plane.shape == (points, 2) and np.isfinite(plane).all()


def test_outcomes_name_files_that_are_broken_with_the_reason(made: Made) -> None:
    answer = get(made, "/v1/outcomes").json()
    assert answer["total"] == 1
    (row,) = answer["files"]
    assert (row["file"], row["outcome"]) == ("media/broken.png", "broken")
    assert row["reason"] and str(made.searcher.collection.path) not in row["reason"]


def test_an_item_is_recognised_from_its_own_files(made: Made) -> None:
    said = get(made, "/v1/items/red/prediction").json()
    assert (said["label"], said["modalities"]) == ("warm", ["image"])
    assert get(made, "/v1/items/none/prediction").status_code == 404
    assert get(made, "/v1/items/rising/prediction").status_code == 422


def test_a_file_is_added_with_its_label(made: Made) -> None:
    content = png((1, 2, 3))
    answer = post(made, "/v1/items", files={"file": ("../x.png", content)}, data={"label": " grey "})
    assert answer.json()["id"].startswith("taught/")
    assert made.kept.files[-1] == (content, ".png", "grey")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"files": {"file": ("x.png", b"1")}, "data": {"label": "  "}}, 422),
        ({"files": [("file", ("x.png", b"1"))] * 9}, 400),
        ({"files": {"file": ("x.png", b"1")}, "data": {"folder": ["a", "b"]}}, 422),
        ({"files": {"file": ("x.png", b"1")}, "data": {"label": "x" * 1001}}, 422),
        ({"files": {"other": ("x.png", b"1")}, "data": {"label": "a"}}, 422),
        ({"files": {"file": ("x.png", b"1")}, "data": {"name": "a"}}, 422),
        ({"files": {"file": ("x.png", b"1"), "label": ("y", b"2")}}, 422),
        ({"json": {"label": "a"}}, 415),
    ],
)
def test_an_upload_that_is_none_is_refused(made: Made, body: dict[str, Any], status: int) -> None:
    before = len(made.kept.files)
    assert post(made, "/v1/items", **body).status_code == status
    assert len(made.kept.files) == before


def test_learning_shows_old_against_new(made: Made) -> None:
    answer = post(made, "/v1/learn").json()
    assert answer["switched"] is True
    assert (answer["columns"][0]["old"], answer["columns"][0]["new"]) == (0.7, 0.8)


def test_the_status_says_what_can_be_taught(made: Made) -> None:
    answer = get(made, "/v1/status").json()
    assert all(answer[name] for name in ("rates", "labels", "teaches", "learns"))
    assert set(answer["ratings"]) == {"thumb", "label", "people", "items"}
    assert (answer["models"], answer["notes"]) == ([], [])
    assert get(made, "/v1/drift").json() == {
        "sentence": "the new items differ",
        "warnings": ["image: <b>new items differ"],
    }


def test_the_newest_report_is_shown_alone_and_without_scripts(made: Made) -> None:
    assert get(made, "/report").status_code == 404
    folder = made.searcher.collection.path / "reports"
    folder.mkdir()
    for number, name in enumerate(("a.html", "b.html")):
        (folder / name).write_text(f"<h1>{name}</h1>")
        os.utime(folder / name, (number, number))
    (folder / "z.html").symlink_to(folder / "a.html")
    assert newest_report(made.searcher.collection.path) == folder / "b.html"
    answer = get(made, "/report")
    assert answer.text == "<h1>b.html</h1>"
    assert answer.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert answer.headers["x-frame-options"] == "SAMEORIGIN"
