"""The verb `federate`: sums of several parties, of which nobody sees one party's alone.

Secure aggregation over files, after Bonawitz et al. 2017 (CCS, section 4), with the double mask and without shares of secrets:
every pair of parties adds a mask that cancels out in the sum, and each party one of its own. Who is left after parties have
dropped out reveals its own mask and the masks that it has in common with those. Of nobody both are ever revealed. A key is for
one round: it masks one file and reveals for one set of parties.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float64

from chiasm.alignment.pairs import PairStatistics
from chiasm.errors import ChiasmError
from chiasm.evaluation.record import Record
from chiasm.files import digest_file, strict_json, write_whole
from chiasm.masks import Words, from_words, new_key, shared_seed, stream, to_words
from chiasm.saved import DAMAGE, check_fields, read_described, read_object, write_arrays
from chiasm.verbs.pooled import PartyStatistics

Step = Literal["keys", "mask", "reveal", "sum"]
FEWEST = 3  # parties: of two, each knows the other's sum from the total
_FORMATS = {"keys": "chiasm-party", "key": "chiasm-party-key", "mask": "chiasm-masked", "reveal": "chiasm-reveal"}


@dataclass(frozen=True)
class FederateReport(Record):
    """One step of a round."""

    step: str
    out: str
    parties: int  # that take part
    dropped: int = 0  # of these, whose sums are missing
    items: int | None = None  # of the sum: pairs, or labelled items


def federate(
    step: Step, files: Sequence[str | Path], *, out: str | Path, key: str | Path | None = None
) -> FederateReport:
    """Do one step of a round that adds up the statistics of several parties without showing those of one.

    Args:
        step: `"keys"`: each party makes a key from its file of statistics; `out` goes to all. `"mask"`: each party masks its
            statistics, with the files of all other parties; `out` goes to the coordinator. `"reveal"`: each party whose masked
            file arrived says how to free the sum of masks; `out` goes to the coordinator. `"sum"`: the coordinator adds up.
        files: of `keys`, the statistics; of `mask`, the statistics and what `keys` gave to the others; of `reveal`, what `keys` gave to
            all whose masked files arrived; of `sum`, the masked files and what was revealed.
        out: the file to write. Of `sum` statistics, for `fit` or `align`.
        key: the party's secret, which `keys` makes; it never leaves the party.

    Raises:
        ChiasmError: parties are missing, or too few; statistics do not fit together; a key was used before; a file is damaged.
        MissingExtraError: the extra `private` is not installed.
    """
    if step not in get_args(Step):
        raise ChiasmError(f"a step is one of {', '.join(get_args(Step))}; got {step!r}")
    if not files:
        raise ChiasmError(f"{step} needs files: see chiasm federate --help")
    paths = [Path(file) for file in files]
    if step == "sum":
        if key is not None:
            raise ChiasmError("the coordinator needs no key, and must not have one: leave it out")
        return _sum(paths, Path(out))
    if key is None:
        raise ChiasmError(f"{step} needs the key of the party: --key FILE")
    return {"keys": _keys, "mask": _mask, "reveal": _reveal}[step](paths, Path(key), Path(out))


# ---------------------------------------------------------------------------------------------------------------- parties


def _keys(paths: Sequence[Path], key: Path, out: Path) -> FederateReport:
    (path,) = _exactly_one(paths, "the party's statistics")
    if key.exists():
        raise ChiasmError(f"{key} exists, and a key is for one round. Name a new file")
    about = _about(path)
    private, public = new_key()
    secret = {
        "private": private.hex(),
        "public": public.hex(),
        "own": secrets.token_hex(32),
        "masked": None,
        "kept": None,
    }
    _write(key, "key", {**secret, "parties": None}, mode=0o600)
    _write(out, "keys", {"public": public.hex(), "about": about})
    return FederateReport("keys", str(out), 1)


def _mask(paths: Sequence[Path], key: Path, out: Path) -> FederateReport:
    mine, secret = paths[0], _read(key, "key")
    others = {one["public"]: one["about"] for one in (_read(path, "keys") for path in paths[1:])}
    others.pop(secret["public"], None)
    parties = sorted({*others, secret["public"]})
    if len(parties) < FEWEST:
        raise ChiasmError(
            f"{len(parties)} parties are too few: of two, each knows the other's sum from the total. Name the files that keys "
            f"gave to all others; at least {FEWEST} parties take part"
        )
    used = [digest_file(mine), parties]
    if secret["masked"] not in (None, used):
        raise ChiasmError(
            f"{key} has masked other statistics or for other parties before: a second time would tell their difference. Begin a new round: chiasm federate keys"
        )
    about = reduce(_together, others.values(), _about(mine))
    words = to_words(_numbers(mine, about))
    words += stream(bytes.fromhex(secret["own"]), len(words))
    for public in others:
        words += _between(secret["public"], public, _seed(secret, public), len(words))
    _write(key, "key", {**secret, "masked": used, "parties": parties}, mode=0o600)  # first: it is used from here on
    header = {"party": secret["public"], "parties": parties, "about": about}
    write_arrays(out, {"words": words}, {"format": _FORMATS["mask"], "header": json.dumps(header, sort_keys=True)})
    return FederateReport("mask", str(out), len(parties))


def _reveal(paths: Sequence[Path], key: Path, out: Path) -> FederateReport:
    secret = _read(key, "key")
    if secret["parties"] is None:
        raise ChiasmError(f"{key} has masked nothing yet: chiasm federate mask first")
    kept = sorted({_read(path, "keys")["public"] for path in paths} | {secret["public"]})
    parties = secret["parties"]
    if strangers := set(kept) - set(parties):
        raise ChiasmError(f"{len(strangers)} of the files are of parties that were not there when {key.name} masked")
    if 2 * len(kept) <= len(parties):
        raise ChiasmError(
            f"half a federation: the masked files of {len(kept)} of {len(parties)} parties have arrived, and a sum needs more than half. "
            "Wait for others, or begin a new round with those that are left: chiasm federate keys"
        )
    if secret["kept"] not in (None, kept):
        raise ChiasmError(
            f"{key} has revealed for other parties before: both would show the sums of one. Begin a new round: chiasm federate keys"
        )
    _write(key, "key", {**secret, "kept": kept}, mode=0o600)
    gone = {public: _seed(secret, public).hex() for public in parties if public not in kept}
    _write(out, "reveal", {"party": secret["public"], "kept": kept, "own": secret["own"], "gone": gone})
    return FederateReport("reveal", str(out), len(parties), len(gone))


# ------------------------------------------------------------------------------------------------------------ coordinator


def _sum(paths: Sequence[Path], out: Path) -> FederateReport:
    """Add up what is masked, and only then take the masks away: no sum of one party is ever in memory."""
    masked: dict[str, Path] = {}
    reveals: dict[str, dict[str, Any]] = {}
    headers: list[dict[str, Any]] = []
    for path in paths:
        if (header := _header(path)) is not None:
            headers.append(header)
            masked[header["party"]] = path
        else:
            revealed = _read(path, "reveal")
            reveals[revealed["party"]] = revealed
    if not headers or any(
        one["parties"] != headers[0]["parties"] or one["about"] != headers[0]["about"] for one in headers
    ):
        raise ChiasmError(
            "the masked files are of different rounds, or there are none. Name those of one round, and what was revealed"
        )
    parties, about, kept = headers[0]["parties"], headers[0]["about"], sorted(masked)
    silent = [party for party in kept if party not in reveals]
    others = [party for party, one in reveals.items() if one["kept"] != kept]
    if silent or others:
        raise ChiasmError(
            f"half a federation: {len(kept)} of {len(parties)} parties have sent masked sums; of {len(silent)} of these what reveal gives is "
            f"missing, and {len(others)} revealed for other parties than these. Ask them, with the files of these {len(kept)}; if they are "
            "gone, begin a new round: chiasm federate keys"
        )
    total: Words = np.zeros(0, np.uint64)
    for path in masked.values():
        words = read_described(path)[0]["words"]
        total = words if not len(total) else total + words
    for party in kept:
        total = total - stream(bytes.fromhex(reveals[party]["own"]), len(total))
        for public, seed in reveals[party]["gone"].items():
            total = total - _between(party, public, bytes.fromhex(seed), len(total))
    numbers = from_words(total)
    count = int(np.rint(numbers[0]))
    if count < 1 or abs(numbers[0] - count) > 1e-6:
        raise ChiasmError(
            "the masks do not cancel out: a file is not of this round, or was changed. Ask for the files again"
        )
    _statistics(numbers, about).save(out, about["metadata"])
    return FederateReport("sum", str(out), len(parties), len(parties) - len(kept), count)


# ------------------------------------------------------------------------------------------------- statistics as numbers


def _about(path: Path) -> dict[str, Any]:
    """Return what statistics are of: all that parties may know of each other's."""
    sums, metadata = PairStatistics.load(path)
    metadata.pop("learned", None)  # it tells of the party's own pairs
    return {"metadata": metadata, "shape": list(sums.shape)}


def _together(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return what the sum of two is of: of labels with the classes of both.

    Raises:
        ChiasmError: they cannot be added up.
    """
    one, two = (
        {"label": part["metadata"].get("label"), **json.loads(part["metadata"].get("about", "{}"))}
        for part in (first, second)
    )
    names = sorted({*one.pop("names", ()), *two.pop("names", ())})
    for part in (one, two):
        part.pop("pretrained", None)
    same = one == two if one["label"] is not None else first["metadata"] == second["metadata"]
    if not same or first["shape"][0] != second["shape"][0]:
        raise ChiasmError(
            "the statistics of the parties are of other columns, modalities or encoders and cannot be added up. All write theirs "
            f"alike: chiasm statistics. Here {_in_words(first)}, there {_in_words(second)}"
        )
    if one["label"] is None:
        return first
    known = json.loads(first["metadata"]["about"])
    metadata = {**first["metadata"], "about": json.dumps({**known, "names": names, "pretrained": []}, sort_keys=True)}
    return {"metadata": metadata, "shape": [first["shape"][0], len(names)]}


def _in_words(about: dict[str, Any]) -> str:
    metadata = {name: value for name, value in about["metadata"].items() if name != "about"}
    more = json.loads(about["metadata"].get("about", "{}")).get("fingerprints", {})
    return ", ".join(f"{name} {value}" for name, value in {**metadata, **more}.items())


def _numbers(path: Path, about: dict[str, Any]) -> Float64[np.ndarray, " numbers"]:
    """Return the statistics of a file as one row of numbers, with room for all classes."""
    sums = PairStatistics.load(path)[0]
    if "label" in about["metadata"]:
        names = tuple(json.loads(about["metadata"]["about"])["names"])
        sums = PartyStatistics.load(path).sums.named(names).sums
    x, y = (np.triu_indices(size) for size in sums.shape)
    return np.concatenate([[sums.count], sums.sum_x, sums.sum_y, sums.xx[x], sums.xy.ravel(), sums.yy[y]])


def _statistics(numbers: Float64[np.ndarray, " numbers"], about: dict[str, Any]) -> PairStatistics:
    """Return what `_numbers` was given."""
    x, y = about["shape"]
    sizes = [1, x, y, x * (x + 1) // 2, x * y, y * (y + 1) // 2]
    if len(numbers) != sum(sizes):
        raise ChiasmError(
            f"a masked file has {len(numbers)} numbers instead of {sum(sizes)}: it is damaged. Ask for it again"
        )
    count, sum_x, sum_y, xx, xy, yy = np.split(numbers, np.cumsum(sizes)[:-1])
    return PairStatistics(round(float(count[0])), sum_x, sum_y, _whole(xx, x), xy.reshape(x, y), _whole(yy, y))


def _whole(upper: Float64[np.ndarray, " numbers"], size: int) -> Float64[np.ndarray, "size size"]:
    matrix = np.zeros((size, size))
    matrix[np.triu_indices(size)] = upper
    return matrix + np.triu(matrix, 1).T


# ------------------------------------------------------------------------------------------------------------------ files


def _seed(secret: dict[str, Any], public: str) -> bytes:
    return shared_seed(bytes.fromhex(secret["private"]), bytes.fromhex(public))


def _between(party: str, other: str, seed: bytes, count: int) -> Words:
    """Return the mask that a party adds for another one: what that one adds for it cancels this out."""
    words = stream(seed, count)
    return words if party < other else np.negative(words)


def _exactly_one(paths: Sequence[Path], what: str) -> tuple[Path]:
    if len(paths) != 1:
        raise ChiasmError(f"{what} is one file; got {len(paths)}")
    return (paths[0],)


def _write(path: Path, kind: str, values: dict[str, Any], *, mode: int = 0o666) -> None:
    try:
        write_whole(path, strict_json({"format": _FORMATS[kind], **values}), mode=mode)
    except OSError as error:
        raise ChiasmError(f"{path} cannot be written: {error}") from error


def _read(path: Path, kind: Literal["keys", "key", "reveal"]) -> dict[str, Any]:
    """Read a file of a round; what is wrong with it is said without what it holds.

    Raises:
        ChiasmError: it is none, or damaged.
    """
    expected: dict[str, dict[str, type]] = {"keys": {"public": str, "about": dict}, "key": {"private": str, "public": str, "own": str}, "reveal": {"party": str, "own": str, "kept": list, "gone": dict}}  # fmt: skip
    what = {"keys": "what keys gave to the others", "key": "a party's key", "reveal": "what reveal gave"}[kind]
    try:
        values = read_object(path)
        check_fields(values, **expected[kind])
        if values["format"] != _FORMATS[kind]:
            raise ValueError("it is of another step")
        for name in ("public", "private", "own", "party"):
            bytes.fromhex(values.get(name, ""))
    except FileNotFoundError:
        raise ChiasmError(f"{path} is not there. It should be {what}") from None
    except DAMAGE:  # their text may hold a secret
        raise ChiasmError(f"{path} is not {what}, or is damaged") from None
    return values


def _header(path: Path) -> dict[str, Any] | None:
    """Return what a masked file says of itself; None of another file."""
    try:
        header = read_described(path)[1]
        if header.get("format") != _FORMATS["mask"]:
            return None
        values = json.loads(header["header"])
        check_fields(values, party=str, parties=list, about=dict)
        return dict(values)
    except DAMAGE:
        return None
