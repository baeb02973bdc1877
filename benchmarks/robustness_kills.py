"""Kills at random moments over every verb that writes: nothing lost, nothing twice, and the next run ends well.

Each turn copies a small collection with a space, a model and feedback, starts one command on the copy in a process of its
own, and sends it SIGKILL, SIGTERM or SIGINT after a random part of the time that it takes undisturbed. Then the collection,
the space and the model are opened and compared with those before and after an undisturbed run, and the command is run
again. A process that had ended before its signal is counted as such.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

import chiasm
from benchmarks import record
from benchmarks.corpora import say
from chiasm.cli import STOPPED, Stops, run
from chiasm.errors import ChiasmError
from chiasm.store.collection import Collection
from chiasm.store.feedback import FeedbackTable
from chiasm.verbs.model import load_model, model_version

KILLS = 200
SEED = 0
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
COLOURS = ("red", "green", "blue", "orange", "purple", "black", "brown", "pink")
VERBS: dict[str, list[str]] = {
    "add": ["add", "new", "--to", "c"],
    "add to a new collection": ["add", "media", "--to", "other"],
    "remove": ["remove", "c", "--where", "label = 'square'", "--yes"],
    "reembed": ["reembed", "c", "--encoder", "offline,language=de"],
    "align": ["align", "c"],
    "statistics": ["statistics", "c", "--out", "sums.safetensors"],
    "fit to a new model": ["fit", "c", "--label", "label", "--out", "other-model"],
    "fit onto a model": ["fit", "c", "--label", "label", "--out", "m", "--modalities", "text"],
    "learn": ["learn", "m", "c"],
    "revert": ["revert", "m"],
    "feedback": ["feedback", "c", "circle/red", "circle/blue", "--verdict", "up"],
    "labels": ["labels", "c", "circle/red", "circle/blue", "--column", "label", "--label", "square"],
    "evaluate --report": ["evaluate", "c", "--report", "page.html"],
    "make-key": ["make-key", "keys"],
    "serve, with uploads": ["serve", "c", "--model", "m", "--port", "0"],
}
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["chiasm.cli.commands", "chiasm.store.collection", "sklearn.linear_model"])


# ------------------------------------------------------------------------------------------------- in other processes


def work(folder: Path, arguments: Sequence[str], ready: Connection) -> None:
    """The body of a process: what `chiasm ARGUMENTS` does, from the moment at which it listens to signals."""
    os.chdir(folder)
    for number, name in ((1, "out.txt"), (2, "err.txt")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    for number in SIGNALS[1:]:  # a job in the background of a shell is born deaf to SIGINT
        signal.signal(number, signal.SIG_DFL)
    stops = Stops()
    stops.listen()
    ready.send(True)
    stops.code = run(arguments, stops)
    sys.exit(stops.code)


@dataclass
class Process:
    """A command at work."""

    folder: Path
    arguments: Sequence[str]
    own: Any = field(init=False)

    def __enter__(self) -> Process:
        receiver, sender = PROCESSES.Pipe(duplex=False)
        self.own = PROCESSES.Process(target=work, args=(self.folder, self.arguments, sender))
        self.own.start()
        sender.close()
        receiver.recv()
        return self

    def __exit__(self, *_: object) -> None:
        if self.own.is_alive():
            self.own.kill()
        self.own.join()

    def end(self, seconds: float = 300.0) -> int | None:
        """Wait for its end, and return its code; None: it hangs."""
        self.own.join(seconds)
        code: int | None = self.own.exitcode
        return code

    def url(self) -> str:
        """Return the address of a server, once it is ready."""
        end = time.monotonic() + 300
        while time.monotonic() < end and self.own.is_alive():
            for line in (self.folder / "err.txt").read_text().splitlines():
                with contextlib.suppress(ValueError):
                    if url := json.loads(line).get("url"):
                        import httpx

                        with contextlib.suppress(httpx.HTTPError):  # it is bound before it listens
                            if httpx.get(f"{url}/readyz", timeout=60).status_code == 200:
                                return str(url)
            time.sleep(0.05)
        raise RuntimeError(f"the server has not come: {(self.folder / 'err.txt').read_text()}")


# --------------------------------------------------------------------------------------------------------- in this one


def draw(path: Path, shape: str, colour: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (64, 64), "white")
    pen = ImageDraw.Draw(image)
    (pen.ellipse if shape == "circle" else pen.rectangle)((10, 10, 54, 54), fill=colour)
    image.save(path)


def make(root: Path) -> None:
    """A collection of sixteen pictures with captions, with a space, a model, feedback, and twelve items to be added."""
    for shape in ("circle", "square"):
        for colour in COLOURS:
            draw(root / "media" / shape / f"{colour}.png", shape, colour)
            (root / "media" / shape / f"{colour}.txt").write_text(f"a {colour} {shape}")
        for colour in ("navy", "gold", "teal"):
            draw(root / "new" / shape / f"{colour}.png", shape, colour)
            (root / "new" / shape / f"{colour}.txt").write_text(f"a {colour} {shape}")
    chiasm.add([root / "media"], to=root / "c")
    chiasm.align(root / "c")
    for _ in range(2):  # so that there is one to go back to
        chiasm.fit(root / "c", label="label", out=root / "m")
    chiasm.labels(root / "c", ["circle/pink"], column="label", label="square")


def uploaded() -> bytes:
    import io

    out = io.BytesIO()
    Image.new("RGB", (48, 48), "magenta").save(out, "PNG")
    return out.getvalue()


@contextlib.contextmanager
def uploading(url: str) -> Iterator[list[int]]:
    """Send a file with a label again and again in a thread; yields the answers that came."""
    import httpx

    answers: list[int] = []
    done = threading.Event()

    def send() -> None:
        while not done.is_set():
            try:
                form = {"files": {"file": ("a.png", uploaded())}, "data": {"label": "circle"}}
                answers.append(httpx.post(f"{url}/v1/items", timeout=60, **form).status_code)  # type: ignore[arg-type]
            except httpx.HTTPError:
                done.wait(0.01)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield answers
    finally:
        done.set()
        thread.join()


def state(path: Path) -> dict[str, Any]:
    """What a collection holds, each thing once: ids, outcomes, keys of vectors; raises where it is damaged."""
    collection = Collection.open(path)
    ids = [row["id"] for row in collection.items()]
    files = [(row["item"], row["slot"]) for row in collection.files()]
    usable = {(row["item"], row["slot"]) for row in collection.files() if row["outcome"] in {"ok", "duplicate"}}
    vectors: list[tuple[str, str]] = []
    for fingerprint in {row["encoder"] for row in collection.files() if row["outcome"] == "ok"}:
        found = collection.vectors(fingerprint)
        vectors += zip(found.items, found.slots, strict=True)
    problems = [
        name for name, rows in (("item", ids), ("file", files), ("vector", vectors)) if len({*rows}) < len(rows)
    ]
    return {"ids": {*ids}, "files": {*files}, "usable": usable, "twice": problems, "encoder": collection.encoder}


class Turns:
    """The turns of one verb: undisturbed first, then killed."""

    def __init__(self, verb: str, base: Path, place: Path) -> None:
        self.verb, self.base, self.place = verb, base, place
        self.arguments = VERBS[verb]
        self.serves = self.arguments[0] == "serve"
        folder = self.fresh("whole")
        with Process(folder, self.arguments) as process:
            begin = time.monotonic()
            if self.serves:
                url = process.url()
                begin = time.monotonic()
                with uploading(url) as answers:
                    while not answers:
                        time.sleep(0.01)
                os.kill(process.own.pid, signal.SIGTERM)
            code = process.end()
        if code != 0:
            raise RuntimeError(f"{self.arguments} undisturbed: {code}: {(folder / 'err.txt').read_text()}")
        self.seconds = time.monotonic() - begin
        self.target = folder / ("other" if "other" in self.arguments else "c")
        self.before, self.after = state(base / "c"), state(self.target)

    def fresh(self, name: str) -> Path:
        folder = self.place / name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.base, folder)
        return folder

    def killed(self, number: signal.Signals, part: float) -> list[str]:
        """One turn; returns what happened: "ended before" or "killed", then what was wrong."""
        folder = self.fresh("turn")
        answers: list[int] = []
        with Process(folder, self.arguments) as process, contextlib.ExitStack() as stack:
            if self.serves:
                answers = stack.enter_context(uploading(process.url()))
            time.sleep(part * self.seconds)
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.own.pid, number)
            code = process.end()
        killed = STOPPED if number != signal.SIGKILL else -number
        graceful = {0} if self.serves and number == signal.SIGTERM else {killed} if self.serves else {0, killed}
        wrong = [] if code in graceful else [f"exit code {code} of {number.name}" if code is not None else "hang"]
        if code == STOPPED and "Stopped." not in (folder / "err.txt").read_text():
            wrong.append("no message")
        wrong += self.check(folder, answers)
        wrong += self.again(folder)
        return ["ended before" if code == 0 and not self.serves else "killed", *wrong]

    def check(self, folder: Path, answers: Sequence[int] = ()) -> list[str]:
        """What is wrong after a kill: something does not open, is lost or is there twice."""
        wrong: list[str] = []
        try:
            wrong += self.compare(state(folder / "c"), lowest=self.before["ids"] & self.highest())
            if 200 in answers and not any(
                "dropped" in str(row["path"]) for row in Collection.open(folder / "c").files()
            ):
                wrong.append("lost: an upload that was answered")
            if (folder / "other" / "chiasm.json").exists():
                wrong += self.compare(state(folder / "other"), lowest=set())
            FeedbackTable(Collection.open(folder / "c")).rows()
            chiasm.search(folder / "c", "a red circle", k=1)
            load_model(folder / "m")
            if (folder / "other-model" / "model.json").exists():
                load_model(folder / "other-model")
            model_version(folder / "m")
            if (folder / "page.html").exists() and "</html>" not in (folder / "page.html").read_text():
                wrong.append("half a report")
        except ChiasmError as error:
            wrong.append(f"does not open: {error}")
        return wrong

    def highest(self) -> set[str]:
        return set(self.after["ids"]) if self.target.name == "c" else set(self.before["ids"])

    def compare(self, found: dict[str, Any], lowest: set[str]) -> list[str]:
        wrong = [f"twice: {name}" for name in found["twice"]]
        if lost := lowest - found["ids"]:
            wrong.append(f"lost: {sorted(lost)}")
        if strange := found["ids"] - self.before["ids"] - self.after["ids"]:
            wrong.append(f"from nowhere: {sorted(strange)}")
        return wrong

    def again(self, folder: Path) -> list[str]:
        """What is wrong after the next run of the same command."""
        with Process(folder, self.arguments) as process:
            if self.serves:
                with uploading(process.url()) as answers:
                    while not answers:
                        time.sleep(0.01)
                os.kill(process.own.pid, signal.SIGTERM)
            code = process.end()
        error = (folder / "err.txt").read_text().strip()
        wrong = [] if code == 0 else [f"again: exit code {code}: {error[-200:]}"]
        found = state(folder / self.target.name)
        wrong += self.check(folder) + [f"again: twice {name}" for name in found["twice"]]
        if {name: found[name] for name in ("ids", "files", "usable")} != {
            name: self.after[name] for name in ("ids", "files", "usable")
        }:
            wrong.append("again: not as an undisturbed run leaves it")
        if left := [path.name for path in folder.rglob("*") if re.search(r"\.tmp|\.part$|#\d", path.name)]:
            wrong.append(f"again: left over {left[:3]}")
        return wrong


def main() -> None:
    """Run the turns and write the counts."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--kills", type=int, default=KILLS)
    asked, rest = parser.parse_known_args()
    sys.argv[1:] = rest  # the others are the record's
    rng = np.random.default_rng(SEED)
    rows: list[list[object]] = []
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="chiasm-kills-") as place:
        base = Path(place) / "base"
        make(base)
        share = -(-asked.kills // len(VERBS))
        for verb in VERBS:
            turns = Turns(verb, base, Path(place))
            counts: Counter[str] = Counter()
            for turn in range(share):
                number = SIGNALS[turn % len(SIGNALS)]
                what, *wrong = turns.killed(number, float(rng.uniform()))
                counts[what] += 1
                counts["wrong"] += bool(wrong)
                if wrong:
                    say(f"{verb}, {number.name}: {wrong}")
                for one in wrong:
                    counts[one.split(":")[0].split(" of ")[0]] += 1
            say(f"{verb}: {dict(counts)}")
            total += counts
            lost, twice = counts["lost"], counts["twice"]
            rows.append(
                [verb, share, counts["killed"], counts["ended before"], lost, twice, counts["hang"], counts["wrong"]]
            )
    rows.append(
        ["all", sum(int(str(row[1])) for row in rows), *(sum(int(str(row[n])) for row in rows) for n in range(2, 8))]
    )
    columns = ("verb", "signals", "killed", "ended before", "lost", "twice", "hangs", "turns with anything wrong")
    body = (
        "SIGKILL, SIGTERM and SIGINT in turn, each after a random part of the time that the command takes. After "
        "each: the collection, the space and the model open, every item and vector is there once, and the same command run "
        "again ends with 0 and what an undisturbed run leaves.\n\n" + record.table(columns, rows)
    )
    command = "python -m benchmarks.robustness kills"
    record.write("robustness_kills", "Kills at random moments", str(SEED), body, command=command)


if __name__ == "__main__":
    main()
