"""Processes that add are killed, stopped, run side by side or out of disk: nothing is lost, nothing is done twice.

Processes are started from a server that has imported what they need, so that most of their life is `add`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import lance
import numpy as np
import pytest
from fake_encoder import FakeEncoder, by_key, check, count_writes, embed, rows

from chiasm.errors import ChiasmError
from chiasm.store.add import add_manifests
from chiasm.store.collection import Collection
from chiasm.store.ingest import Progress
from chiasm.store.manifest import read_manifest
from chiasm.types import Text

pytestmark = pytest.mark.race
FINGERPRINT = FakeEncoder().fingerprint
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["chiasm.store.collection", "chiasm.store.manifest", "pytest"])


# ------------------------------------------------------------------------------------------------ in other processes


@dataclass(frozen=True)
class Job:
    """What a process adds, and what befalls it."""

    collection: Path
    folders: tuple[Path, ...]
    log: Path  # of the texts that are embedded
    error: Path  # is made with the message of the error that ended it
    commit_rows: int = 8
    at_step: int | None = None  # of the steps that write: before the first is 0, after it 1, ...
    number: signal.Signals = signal.SIGKILL  # that the process sends itself at this step
    steps: Path | None = None  # where the number of steps is written
    full_after: int | None = None  # files; then no file on disk can grow


def run(job: Job) -> None:
    """The body of a process: add, and end like the command line."""
    count_writes(job.at_step, job.steps, number=job.number)

    def on_progress(progress: Progress) -> None:
        if job.full_after == progress.done:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell is born deaf to it
    encoder = FakeEncoder(batch_size=4, faults={"bad": "nan"}, log=job.log if job.full_after is None else None)
    try:
        collection = Collection.create(job.collection, encoder="fake")
        manifests = [read_manifest(folder) for folder in job.folders]
        add_manifests(collection, manifests, [encoder], commit_rows=job.commit_rows, on_progress=on_progress)
    except KeyboardInterrupt:
        sys.exit(130)
    except ChiasmError as error:
        job.error.symlink_to(str(error))  # a link takes no room in a file
        sys.exit(1)


def start(job: Job) -> ForkServerProcess:
    process = SERVER.Process(target=run, args=(job,))
    process.start()
    return process


def end(process: ForkServerProcess) -> int | None:
    process.join()
    code = process.exitcode
    process.close()
    return code


# --------------------------------------------------------------------------------------------------------- in this one


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 texts: some twice, some that cannot be embedded, some with nothing in them."""
    folder = tmp_path_factory.mktemp("media")
    for number in range(120):
        text = f"text {number}"
        if number % 10 == 5:
            text = f"text {number // 2}"
        elif number % 10 == 7:
            text = ("bad", "")[number % 20 == 7]
        (folder / f"{number:03}.txt").write_text(text)
    return folder


@pytest.fixture(scope="module")
def whole(media: Path, tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """What a run that nothing disturbs makes of them."""
    collection = Collection.create(tmp_path_factory.mktemp("whole") / "collection", encoder="fake")
    add_manifests(collection, [read_manifest(media)], [FakeEncoder(batch_size=4, faults={"bad": "nan"})], commit_rows=8)
    return collection


@pytest.fixture
def job(tmp_path: Path, media: Path) -> Job:
    return Job(tmp_path / "collection", (media,), tmp_path / "log", tmp_path / "error")


def finish(job: Job) -> Collection:
    """Add what is missing, here."""
    collection = Collection.create(job.collection, encoder="fake")
    encoder = FakeEncoder(batch_size=4, faults={"bad": "nan"}, log=job.log)
    add_manifests(collection, [read_manifest(folder) for folder in job.folders], [encoder], commit_rows=job.commit_rows)
    return collection


def check_equal(found: Collection, expected: Collection) -> None:
    """The same items, outcomes and vectors, each once; also in the tables as they are on disk."""
    check(found)
    assert {row["id"]: row for row in found.items()} == {row["id"]: row for row in expected.items()}
    assert len(found.items()) == len(expected.items())
    assert rows(found) == rows(expected)
    there, vectors = by_key(found.vectors(FINGERPRINT)), by_key(expected.vectors(FINGERPRINT))
    assert set(there) == set(vectors)
    assert all(np.array_equal(there[key], vectors[key]) for key in there)
    assert len(stored(found.path)) == len(vectors), "a vector that belongs to nothing"


def stored(path: Path) -> list[tuple[str, ...]]:
    """Keys of the vectors that are on disk."""
    table = path / f"embeddings-{FINGERPRINT}.lance"
    if not any((table / "_versions").glob("*.manifest")):
        return []
    found = lance.dataset(str(table)).to_table(columns=["item", "slot", "hash"])
    return list(zip(*(column.to_pylist() for column in found.columns), strict=True))


def texts_of(job: Job, keys: Sequence[tuple[str, ...]]) -> set[str]:
    return {(job.folders[0] / f"{item}.txt").read_text() for item, _, _ in keys}


def embedded(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if line != "bad"] if log.exists() else []


def test_runs_that_are_killed_again_and_again(job: Job, whole: Collection) -> None:
    """Each run gets a few writes further than the one before."""
    generator = np.random.default_rng(0)
    kills = cut = 0
    while True:
        known = texts_of(job, stored(job.collection))
        job.log.unlink(missing_ok=True)
        code = end(start(replace(job, at_step=int(generator.integers(4, 12)))))
        assert not known & set(embedded(job.log)), "embedded again though its vector was committed"
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
        cut += 0 < len(stored(job.collection)) < len(stored(whole.path))
    assert (kills, cut) > (5, 5)
    check_equal(Collection.open(job.collection), whole)


def edit(folder: Path) -> None:
    """Change, break, mend, double, add and take away a file."""
    (folder / "001.txt").write_text("changed, 001")
    (folder / "002.txt").write_text("bad")
    (folder / "007.txt").write_text("mended")
    (folder / "003.txt").write_text("text 4")
    (folder / "new.txt").write_text("new")
    (folder / "005.txt").write_text("a longer text for 005")
    (folder / "009.md").unlink()


def test_kill_at_every_step_that_writes(media: Path, tmp_path: Path) -> None:
    folder = tmp_path / "few"
    folder.mkdir()
    for number in range(12):
        shutil.copy2(media / f"{number:03}.txt", folder)
    (folder / "009.md").write_text("a second text of 009")
    before = Job(tmp_path / "before", (folder,), tmp_path / "log", tmp_path / "error", commit_rows=4)
    finish(before)
    edit(folder)
    expected = tmp_path / "expected"
    shutil.copytree(before.collection, expected)
    steps = tmp_path / "steps"
    assert end(start(Job(expected, (folder,), before.log, before.error, commit_rows=4, steps=steps))) == 0
    check(Collection.open(expected))
    assert int(steps.read_text()) >= 12
    for step in range(int(steps.read_text())):
        target = tmp_path / f"step{step}"
        shutil.copytree(before.collection, target)
        job = Job(target, (folder,), tmp_path / f"log{step}", before.error, commit_rows=4, at_step=step)
        assert end(start(job)) == -signal.SIGKILL
        known = {key[2] for key in stored(target)}
        count = len(embedded(job.log))
        check_equal(finish(job), Collection.open(expected))
        again = {key[2] for key in stored(target) if key[0] in {"001", "005", "007", "new"}} & known
        assert len(embedded(job.log)) - count == 4 - len(again), "embedded again, or not at all"


def test_kill_while_a_collection_is_made(job: Job, whole: Collection) -> None:
    for step in range(8):
        assert end(start(replace(job, at_step=step))) == -signal.SIGKILL
        Collection.create(job.collection, encoder="fake").count()
    check_equal(finish(job), whole)


@pytest.mark.parametrize("step", [1, 2, 9, 20, 41])
def test_ctrl_c_at_a_write(job: Job, whole: Collection, step: int) -> None:
    assert end(start(replace(job, at_step=step, number=signal.SIGINT))) == 130
    check_equal(finish(job), whole)


@pytest.mark.parametrize("same", [True, False], ids=["the same folder", "two folders"])
def test_two_processes_add_at_once(job: Job, media: Path, whole: Collection, tmp_path: Path, same: bool) -> None:
    """While this one reads: what it sees is right at every moment, and only grows."""
    other = media if same else tmp_path / "other"
    if not same:
        other.mkdir()
        for number in range(120):
            (other / f"other {number}.txt").write_text(f"text {number} of the other folder")
    processes = [
        start(Job(job.collection, (folder,), tmp_path / f"log{n}", job.error))
        for n, folder in enumerate((media, other))
    ]
    sizes = []
    while any(process.is_alive() for process in processes):
        if (job.collection / "chiasm.json").exists():
            found = Collection.open(job.collection).vectors(FINGERPRINT)
            for item, vector in by_key(found).items():
                path = next(
                    folder / f"{item[0]}.txt" for folder in (media, other) if (folder / f"{item[0]}.txt").exists()
                )
                np.testing.assert_array_equal(vector, embed(Text(path.read_text())))
            sizes.append(len(found))
    assert [end(process) for process in processes] == [0, 0]
    assert sizes == sorted(sizes)
    if same:
        check_equal(Collection.open(job.collection), whole)
    else:
        collection = Collection.open(job.collection)
        check(collection)
        assert collection.count() == 240
        assert collection.outcomes()["ok"] == whole.outcomes()["ok"] + 120
        assert len(stored(job.collection)) == len(stored(whole.path)) + 120
    report = add_manifests(
        Collection.open(job.collection), [read_manifest(media), read_manifest(other)], [FakeEncoder()]
    )
    assert report.encoded == 0


def test_a_full_disk(job: Job, whole: Collection) -> None:
    full = replace(job, full_after=50)
    assert end(start(full)) == 1
    message = os.readlink(job.error)  # noqa: PTH115
    assert message.startswith(f"{job.collection} cannot be written: ")
    assert message.endswith(
        "File too large (os error 27). What was committed is safe: free space or fix the permissions, and run the same "
        "command again"
    )
    kept = stored(job.collection)
    assert len(kept) >= 40
    collection = finish(job)
    check_equal(collection, whole)
    assert not texts_of(job, kept) & set(embedded(job.log))


def test_a_disk_that_is_full_from_the_start(job: Job) -> None:
    """Not even `chiasm.json` can be written."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8, limit[1]))
        with pytest.raises(ChiasmError) as error:
            Collection.create(job.collection, encoder="fake")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert "cannot be made a collection: [Errno 27] File too large" in str(error.value)
    assert Collection.create(job.collection, encoder="fake").count() == 0
    assert json.loads((job.collection / "chiasm.json").read_text())["encoder"] == "fake"
