"""A client of the REST API of `chiasm serve`, on the standard library alone.

Answers are the API's own JSON (docs/openapi.json). What the server refuses is raised with its reason; where it is busy
the client waits as long as it was told, and asks again.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias
from urllib.parse import quote, urlencode, urlsplit

from chiasm.errors import ChiasmError
from chiasm.files import open_source
from chiasm.types import Modality

File: TypeAlias = str | Path | bytes
"""A path to a file, or the bytes of one."""

_LONGEST_WAIT = 30.0


class ServerError(ChiasmError):
    """The server refused a request, or could not be reached.

    Attributes:
        status: HTTP status; None where there was no answer.
        problem: the answer's members, see RFC 9457.
    """

    def __init__(self, message: str, *, status: int | None = None, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.problem = dict(problem or {})


class Client:
    """A connection to a server. May be used from several threads, which take turns.

    Args:
        url: where the server is, e.g. `"http://127.0.0.1:8265"`; of one of several collections with its address,
            `"http://127.0.0.1:8265/c/photos"`.
        key: API key, where it needs one.
        timeout: seconds to wait for an answer.
        retries: how often to ask again where the server is busy.

    Raises:
        ServerError: the URL is not one of HTTP.
    """

    def __init__(
        self, url: str = "http://127.0.0.1:8265", *, key: str | None = None, timeout: float = 60.0, retries: int = 3
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ServerError(f"a server is named by a URL such as http://127.0.0.1:8265; got {url!r}")
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._connection = kind(parts.hostname, parts.port, timeout=timeout)
        self._base = parts.path.rstrip("/")
        self.url = url
        self._key = key
        self._retries = retries
        self._lock = threading.Lock()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection. The next request makes another."""
        with self._lock:
            self._connection.close()

    # ------------------------------------------------------------------------------------------------------- the verbs

    def search(
        self,
        text: str | None = None,
        *,
        image: File | None = None,
        audio: File | None = None,
        video: File | None = None,
        minus: str | None = None,
        like: Sequence[str] = (),
        **options: Any,
    ) -> list[dict[str, Any]]:
        """Return the hits of one query, best first.

        Args:
            text: what to look for, in words.
            image: a picture to go by.
            audio: a sound to go by.
            video: a video to go by.
            minus: what is not wanted, in words.
            like: ids of items to find others like.
            options: `k`, `offset`, `modality`, `where`, `min_probability`, `hybrid`, `diversity`.

        Raises:
            ServerError: the server refused it, and why.
        """
        query = {**_thing(text, image, audio, video), **({"minus": minus} if minus else {}), "like": list(like)}
        hits: list[dict[str, Any]] = self.search_many([query], **options)[0]["hits"]
        return hits

    def search_many(self, queries: Sequence[Mapping[str, Any]], **options: Any) -> list[dict[str, Any]]:
        """Return the results of several queries, each as the API has them; files are base64."""
        asked = {name: value for name, value in options.items() if value is not None}
        results: list[dict[str, Any]] = self._json("POST", "/v1/search", {"queries": list(queries), **asked})["results"]
        return results

    def predict(
        self,
        text: str | None = None,
        *,
        image: File | None = None,
        audio: File | None = None,
        video: File | None = None,
        level: float = 0.9,
        false_alarm_rate: float = 0.05,
    ) -> dict[str, Any]:
        """Return the prediction of the server's model for one item, given by any subset of its modalities."""
        items = [_thing(text, image, audio, video)]
        body = {"items": items, "level": level, "false_alarm_rate": false_alarm_rate}
        prediction: dict[str, Any] = self._json("POST", "/v1/predict", body)["predictions"][0]
        return prediction

    def embed(
        self,
        text: str | None = None,
        *,
        image: File | None = None,
        audio: File | None = None,
        video: File | None = None,
    ) -> dict[Modality, list[float]]:
        """Return the unit vectors of one item by modality."""
        body = {"items": [_thing(text, image, audio, video)]}
        vectors: dict[Modality, list[float]] = self._json("POST", "/v1/embed", body)["embeddings"][0]["vectors"]
        return vectors

    def items(
        self, *, where: str | None = None, sort: str | None = None, within: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield all items, fetched a page at a time.

        Args:
            where: only items that meet this condition.
            sort: column to sort by, behind `-` for falling values. Default: by ids.
            within: only items of the list of this name.
        """
        after = None
        while True:
            asked = {"limit": 500, "after": after, "where": where, "sort": sort, "within": within}
            page = self._json("GET", "/v1/items" + _query(asked))
            yield from page["items"]
            after = page["next"]
            if after is None:
                return

    def item(self, item: str) -> dict[str, Any]:
        """Return one item."""
        return self._json("GET", f"/v1/items/{quote(item, safe='')}")

    def explain(self, item: str, *, column: str | None = None, answer: str | None = None) -> dict[str, Any]:
        """Return what the prediction of an item by the server's model rests on, see `chiasm.explain`."""
        asked = _query({"column": column, "answer": answer})
        return self._json("GET", f"/v1/items/{quote(item, safe='')}/explanation{asked}")

    def match(self, item: str, text: str) -> list[dict[str, Any]]:
        """Return what in each picture of an item matches words."""
        answer = self._json("GET", f"/v1/items/{quote(item, safe='')}/match{_query({'text': text})}")
        pictures: list[dict[str, Any]] = answer["pictures"]
        return pictures

    def encrypted_model(self) -> dict[str, Any]:
        """Return what asking the server's model with encrypted embeddings needs, see `chiasm.verbs.encrypted`."""
        return self._json("GET", "/v1/encrypted")

    def encrypted_outputs(
        self, column: str, modalities: Sequence[str], question: Sequence[bytes], *, version: str
    ) -> dict[str, Any]:
        """Return the encrypted outputs of a head of the server's model.

        Args:
            column: that it predicts.
            modalities: of the head.
            question: an encrypted feature row, see `chiasm.recognition.encrypted.Key`.
            version: of the model, as `encrypted_model` said.
        """
        parts = [base64.b64encode(part).decode("ascii") for part in question]
        body = {"column": column, "modalities": [*modalities], "question": parts, "version": version}
        return self._json("POST", "/v1/encrypted", body)

    def file(self, item: str, modality: Modality, number: int = 0, *, size: int | None = None) -> bytes:
        """Return a file of an item, by its place among the item's files of that modality.

        Args:
            item: its id.
            modality: of the file.
            number: of the file.
            size: 160, 320, 640 or 1280: a picture of it instead, as WebP, whose longer side has so many pixels.
        """
        return self._ask("GET", f"/v1/items/{quote(item, safe='')}/files/{modality}/{number}{_query({'size': size})}")

    def facets(self, *, where: str | None = None, within: str | None = None) -> dict[str, Any]:
        """Return the number of items by modality and by the values of their columns."""
        return self._json("GET", "/v1/facets" + _query({"where": where, "within": within}))

    def lists(self) -> dict[str, int]:
        """Return the names of the lists with the number of their items."""
        lists: dict[str, int] = self._json("GET", "/v1/lists")["lists"]
        return lists

    def change_list(self, name: str, *, add: Sequence[str] = (), remove: Sequence[str] = ()) -> int:
        """Add items to a list, which is made where there is none, or take some out. Return how many it has."""
        return int(self._json("POST", "/v1/list", {"name": name, "add": [*add], "remove": [*remove]})["size"])

    def export(
        self,
        form: Literal["csv", "parquet", "zip"],
        *,
        ids: Sequence[str] = (),
        where: str | None = None,
        within: str | None = None,
    ) -> bytes:
        """Return items, named or that meet conditions, as a table, or their files as a ZIP archive."""
        asked = {"format": form, "ids": [*ids], "where": where, "within": within}
        return self._ask("POST", "/v1/export", {name: value for name, value in asked.items() if value})

    def feedback(self, item: str, verdict: str, *, query: str | None = None) -> None:
        """Record that a hit was right (`"up"`) or not (`"down"`)."""
        self._json("POST", "/v1/feedback", {"entries": [{"item": item, "verdict": verdict, "query": query}]})

    def label(self, item: str, label: str, *, column: str | None = None) -> None:
        """Record the right label of an item."""
        self._json("POST", "/v1/labels", {"entries": [{"item": item, "label": label, "column": column}]})

    def status(self) -> dict[str, Any]:
        """Return what the server serves."""
        return self._json("GET", "/v1/status")

    def is_ready(self) -> bool:
        """Return whether the server answers and is ready."""
        try:
            self._ask("GET", "/readyz", retries=0)
        except ServerError:
            return False
        return True

    # --------------------------------------------------------------------------------------------------------- the wire

    def _json(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._ask(method, path, body))
        return answer

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, retries: int | None = None
    ) -> bytes:
        headers = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        sent = None if body is None else json.dumps(body).encode()
        for left in range(self._retries if retries is None else retries, -1, -1):
            answer, content = self._once(method, self._base + path, sent, headers)
            if answer.status < 300:
                return content
            problem = _problem(content)
            wait = answer.headers.get("Retry-After", "")
            if left and answer.status in {429, 503} and wait.isdigit():
                time.sleep(min(float(wait), _LONGEST_WAIT))
                continue
            detail = problem.get("detail") or f"{answer.status} {answer.reason}"
            raise ServerError(f"{method} {path.partition('?')[0]}: {detail}", status=answer.status, problem=problem)
        raise AssertionError("the last turn of the loop returns or raises")

    def _once(
        self, method: str, path: str, sent: bytes | None, headers: Mapping[str, str]
    ) -> tuple[HTTPResponse, bytes]:
        with self._lock:
            for fresh in (self._connection.sock is None, True):
                try:
                    self._connection.request(method, path, sent, dict(headers))
                    answer = self._connection.getresponse()
                    return answer, answer.read()
                except (OSError, HTTPException) as error:
                    self._connection.close()
                    # one that was kept open may have been closed meanwhile, which is no failure of the server
                    if fresh or isinstance(error, TimeoutError):
                        raise ServerError(
                            f"{self.url} does not answer ({error or type(error).__name__}). Is chiasm serve running there?"
                        ) from error
        raise AssertionError("the second turn of the loop returns or raises")


def _query(values: Mapping[str, Any]) -> str:
    """Return the parameters of a URL that have a value, behind a question mark."""
    asked = urlencode({name: value for name, value in values.items() if value is not None})
    return f"?{asked}" if asked else ""


def _problem(content: bytes) -> dict[str, Any]:
    try:
        problem = json.loads(content)
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}


def _thing(text: str | None, image: File | None, audio: File | None, video: File | None) -> dict[str, str]:
    """Return an item or query as the API takes it, files as base64.

    Raises:
        ServerError: a file cannot be read.
    """
    thing = {} if text is None else {"text": text}
    for name, file in (("image", image), ("audio", audio), ("video", video)):
        if file is not None:
            thing[name] = base64.b64encode(file if isinstance(file, bytes) else _read(name, file)).decode("ascii")
    return thing


def _read(name: str, path: str | Path) -> bytes:
    try:
        with open_source(path) as file:
            return file.read()
    except OSError as error:
        raise ServerError(f"the {name} {path} cannot be read: {error.strerror or error}") from error
