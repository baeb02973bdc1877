"""A round of secure aggregation over files: the sum is exact, drop-outs lose nothing, and nobody sees one party's sum."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import chiasm
from chiasm.alignment.pairs import PairStatistics
from chiasm.errors import ChiasmError
from chiasm.masks import from_words, to_words
from chiasm.recognition.modalities import ModalityArrays
from chiasm.recognition.pooled import LabelStatistics
from chiasm.verbs.pooled import PartyStatistics

NAMES = "abc"


def party(folder: Path, name: str, *, seed: int, encoder: str = "f00") -> Path:
    """Statistics of one party, each with a class that the others lack."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((40, 12)).astype(np.float32)
    y = np.array(["bird", "fish", f"only {name}", "cat"] * 10)
    path = folder / f"{name}.safetensors"
    sums = LabelStatistics.of("kind", ModalityArrays({"image": X}), y)
    PartyStatistics(sums, "offline", {"image": encoder}, ()).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three parties with keys."""
    for seed, name in enumerate(NAMES):
        party(tmp_path, name, seed=seed)
        keys(tmp_path, name)
    return tmp_path


def keys(folder: Path, name: str) -> None:
    chiasm.federate("keys", [folder / f"{name}.safetensors"], key=folder / f"{name}.key", out=folder / f"{name}.json")


def mask(folder: Path, name: str, *, of: str = NAMES) -> Path:
    files = [folder / f"{name}.safetensors", *(folder / f"{other}.json" for other in of if other != name)]
    chiasm.federate("mask", files, key=folder / f"{name}.key", out=folder / f"{name}.masked")
    return folder / f"{name}.masked"


def reveal(folder: Path, name: str, *, of: str = NAMES) -> Path:
    files = [folder / f"{other}.json" for other in of]
    chiasm.federate("reveal", files, key=folder / f"{name}.key", out=folder / f"{name}.reveal")
    return folder / f"{name}.reveal"


def expected(folder: Path, of: str) -> LabelStatistics:
    first, *others = (PartyStatistics.load(folder / f"{name}.safetensors").sums for name in of)
    for other in others:
        first = first + other
    return first


@pytest.mark.parametrize("kept", ["abc", "ab", "bc"])
def test_the_sum_is_that_of_the_parties_that_are_left(folder: Path, kept: str) -> None:
    masked = [mask(folder, name) for name in NAMES if name in kept]
    revealed = [reveal(folder, name, of=kept) for name in kept]
    report = chiasm.federate("sum", [*masked, *revealed], out=folder / "all.safetensors")
    assert (report.parties, report.dropped, report.items) == (3, 3 - len(kept), 40 * len(kept))
    ours, theirs = PartyStatistics.load(folder / "all.safetensors").sums, expected(folder, kept)
    assert set(theirs.names) <= set(ours.names) == {"bird", "cat", "fish", "only a", "only b", "only c"}
    for name in ("sum_x", "sum_y", "xx", "xy", "yy"):
        np.testing.assert_allclose(getattr(ours.sums, name), getattr(theirs.named(ours.names).sums, name), atol=1e-8)
    chiasm.fit(folder / "all.safetensors", label="kind", out=folder / "model")


def test_who_masked_but_counts_as_dropped_stays_hidden(folder: Path) -> None:
    """A coordinator that has all masked files, and says that one came too late, cannot free it of its own mask."""
    masked = [mask(folder, name) for name in NAMES]
    revealed = [reveal(folder, name, of="ab") for name in "ab"]
    with pytest.raises(ChiasmError, match="half a federation"):
        chiasm.federate("sum", [*masked, *revealed], out=folder / "all.safetensors")
    with pytest.raises(ChiasmError, match="revealed for other parties before"):
        reveal(folder, "a")
    chiasm.federate("sum", [*masked[:2], *revealed], out=folder / "all.safetensors")


def test_a_masked_file_says_nothing_of_its_sums(folder: Path) -> None:
    masked = load_file(mask(folder, "a"))["words"]
    plain = to_words(numbers(folder, "a"))
    difference = masked.astype(np.float64) - 2.0**63
    assert abs(np.corrcoef(difference, plain.view(np.int64).astype(np.float64))[0, 1]) < 0.2
    assert np.unpackbits(masked.view(np.uint8)).mean() == pytest.approx(0.5, abs=0.02)
    assert not (masked == plain).any()


def numbers(folder: Path, name: str) -> np.ndarray:
    """What a party adds, but for the masks."""
    sums = PartyStatistics.load(folder / f"{name}.safetensors").sums
    sums_of_all = sums.named(expected(folder, NAMES).names).sums
    one, upper, square = sums_of_all, np.triu_indices(12), np.triu_indices(6)
    return np.concatenate([[40], one.sum_x, one.sum_y, one.xx[upper], one.xy.ravel(), one.yy[square]])


def test_the_coordinator_never_holds_the_sum_of_one_party(folder: Path) -> None:
    """Its memory is searched for the sums of each, as they are and in fixed point; those of all together are there."""
    files = [*(mask(folder, name) for name in NAMES), *(reveal(folder, name) for name in NAMES)]
    program = (
        "import sys, chiasm\nfrom chiasm.alignment.pairs import PairStatistics\n"
        "chiasm.federate('sum', sys.argv[2:], out=sys.argv[1])\n"
        "kept = PairStatistics.load(sys.argv[1])\nprint('done', flush=True)\nsys.stdin.read()\n"
    )
    arguments = [sys.executable, "-c", program, str(folder / "all.safetensors"), *map(str, files)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "done\n"
        memory = memory_of(child.pid)
        child.communicate("")
    total = PairStatistics.load(folder / "all.safetensors")[0]
    assert total.sum_x[:4].tobytes() in memory, "or the search would find nothing at all"
    for name in NAMES:
        plain = numbers(folder, name)
        for part in (plain[1:5], plain[19:23]):  # of sums and of products
            assert part.tobytes() not in memory
            assert to_words(part).tobytes() not in memory
            assert from_words(to_words(part)).tobytes() not in memory


def memory_of(process: int) -> bytes:
    """Everything that a process has in writable memory."""
    parts = []
    with Path(f"/proc/{process}/maps").open() as maps, Path(f"/proc/{process}/mem").open("rb", 0) as memory:
        for line in maps:
            ends, rights = line.split()[:2]
            if not rights.startswith("rw"):
                continue
            first, last = (int(end, 16) for end in ends.split("-"))
            memory.seek(first)
            parts.append(os.read(memory.fileno(), last - first))
    return b"".join(parts)


def test_half_a_federation_and_other_misuse(folder: Path, tmp_path: Path) -> None:
    masked = [mask(folder, name) for name in "ab"]
    with pytest.raises(ChiasmError, match="half a federation"):
        reveal(folder, "a", of="a")
    first = reveal(folder, "a", of="ab")
    with pytest.raises(ChiasmError, match="1 of these what reveal gives is missing"):
        chiasm.federate("sum", [*masked, first], out=folder / "all.safetensors")
    assert not (folder / "all.safetensors").exists()
    with pytest.raises(ChiasmError, match="2 parties are too few"):
        mask(folder, "c", of="ac")
    with pytest.raises(ChiasmError, match="one round"):
        keys(folder, "a")
    party(folder, "a", seed=9)
    with pytest.raises(ChiasmError, match="has masked other statistics"):
        mask(folder, "a")
    with pytest.raises(ChiasmError, match="masked nothing yet"):
        reveal(folder, "c")
    with pytest.raises(ChiasmError, match="needs the key"):
        chiasm.federate("mask", masked, out=folder / "x")
    with pytest.raises(ChiasmError, match="must not have one"):
        chiasm.federate("sum", masked, key=folder / "a.key", out=folder / "x")


def test_statistics_of_other_encoders_are_refused(folder: Path) -> None:
    party(folder, "d", seed=4, encoder="bar")
    keys(folder, "d")
    with pytest.raises(ChiasmError, match="other columns, modalities or encoders"):
        mask(folder, "a", of="abd")


def test_damaged_files_are_named_without_what_they_hold(folder: Path) -> None:
    masked = [mask(folder, name) for name in NAMES]
    revealed = [reveal(folder, name) for name in NAMES]
    secret = json.loads((folder / "a.key").read_text())
    (folder / "a.key").write_text((folder / "a.key").read_text()[:-20])
    with pytest.raises(ChiasmError, match="damaged") as error:
        reveal(folder, "a")
    assert secret["private"] not in str(error.value)
    assert (folder / "b.key").stat().st_mode & 0o077 == 0, "nobody else may read a key"
    wrong = json.loads(revealed[0].read_text())
    wrong["own"] = secret["private"]
    revealed[0].write_text(json.dumps(wrong))
    with pytest.raises(ChiasmError, match="do not cancel out"):
        chiasm.federate("sum", [*masked, *revealed], out=folder / "all.safetensors")
    assert not (folder / "all.safetensors").exists()
