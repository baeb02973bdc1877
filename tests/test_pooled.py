"""Heads from sums of several parties: exactly those of all items together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from painter import COLOURS, mixtures, painters, picture, table, words_of
from safetensors import safe_open

import chiasm
from chiasm import encoders
from chiasm.errors import ChiasmError, LabelError, SpaceError
from chiasm.recognition.modalities import ModalityArrays
from chiasm.recognition.pooled import LabelStatistics
from chiasm.verbs.model import load_model


@pytest.fixture
def parties(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Three collections with the items of one, dealt out; the first has no green."""
    monkeypatch.setattr(encoders, "resolve", lambda *_, **__: painters())
    rows = [
        {
            "id": words_of(parts),
            "image": picture(tmp_path / "media" / f"{number}.png", parts),
            "text": words_of(parts),
            "most": list(COLOURS)[int(np.argmax(parts))],
        }
        for number, parts in enumerate(mixtures(5))
    ]
    dealt = [[], [], []]  # type: list[list[dict[str, str]]]
    for number, row in enumerate(rows):
        dealt[number % 3 if row["most"] != "green" else 1 + number % 2].append(row)
    for name, own in zip("abc", dealt, strict=True):
        chiasm.add([table(tmp_path / f"{name}.jsonl", own)], to=tmp_path / name)
    chiasm.add([table(tmp_path / "all.jsonl", rows)], to=tmp_path / "all")
    return [tmp_path / name for name in "abc"]


def written(parties: list[Path]) -> list[Path]:
    files = [party.with_suffix(".safetensors") for party in parties]
    for party, file in zip(parties, files, strict=True):
        chiasm.statistics(party, label="most", out=file)
    return files


def test_the_head_of_three_parties_is_that_of_all_items(parties: list[Path], tmp_path: Path) -> None:
    first, *others = written(parties)
    report = chiasm.fit(first, label="most", source=others, out=tmp_path / "model")
    chiasm.fit(tmp_path / "all", label="most", source=[], out=tmp_path / "plain")
    chiasm.statistics(tmp_path / "all", label="most", out=tmp_path / "all.safetensors")
    chiasm.fit(tmp_path / "all.safetensors", label="most", out=tmp_path / "pooled")
    assert report.classes == ("blue", "green", "red"), "the first party has no green"
    assert report.items == len(mixtures(5))
    assert "evaluate" in report.measured
    ours, pooled = (load_model(tmp_path / name).recognizer.only_column_.heads for name in ("model", "pooled"))
    assert ours.keys() == {("image",), ("text",), ("image", "text")}
    for subset, head in ours.items():
        for name, tensor in head.tensors.items():
            largest = np.abs(pooled[subset].tensors[name]).max()
            np.testing.assert_allclose(tensor, pooled[subset].tensors[name], atol=1e-5 * largest)
    score = chiasm.evaluate(tmp_path / "model", tmp_path / "all").metrics["accuracy"]
    assert score > 0.85
    mixed = chiasm.fit(parties[0], label="most", source=others, out=tmp_path / "mixed")  # one's own items beside sums
    assert mixed.items == report.items
    assert len(load_model(tmp_path / "mixed").trained_on) < mixed.items


def test_a_head_is_ridge_regression(parties: list[Path]) -> None:
    """Restated: least squares on zeros and ones with a penalty, of rows that are not centred."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((60, 4)).astype(np.float32), np.array(["a", "b", "c"] * 20)
    head = LabelStatistics.of("y", ModalityArrays({"image": X}), y).recognizer().only_column_.heads[("image",)]
    rows = (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float64)
    Y, centred = np.eye(3)[np.unique(y, return_inverse=True)[1]], rows - rows.mean(axis=0)
    covariance = centred.T @ centred / 60
    penalty = head.numbers["strength"] * np.trace(covariance) / 4
    weight = np.linalg.solve(covariance + penalty * np.eye(4), centred.T @ (Y - Y.mean(axis=0)) / 60)
    ratio = head.tensors["coef"].T / weight
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-3)
    assert ratio[0, 0] > 0


def test_a_file_holds_no_item(parties: list[Path]) -> None:
    file = written(parties)[0]
    content = file.read_bytes()
    assert not any(name.encode() in content for name in ("red red", "media", ".png"))
    with safe_open(file, framework="numpy") as opened:
        assert {*opened.keys()} == {"sum_x", "sum_y", "xx_upper", "xy", "yy_upper"}


def test_what_cannot_be_added_up_is_refused(
    parties: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = written(parties)
    pairs = tmp_path / "pairs.safetensors"
    chiasm.statistics(parties[0], out=pairs)
    single = tmp_path / "single.safetensors"
    chiasm.statistics(parties[1], label="most", modalities=["text"], out=single)
    one_class = tmp_path / "one.safetensors"
    chiasm.statistics(parties[1], label="most", where="most = 'red'", out=one_class)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(first.read_bytes()[:-100])
    for sources, message in (
        ([first, pairs], "statistics of pairs, for align"),
        ([first, single], "other encoders"),
        ([first, cut], "damaged"),
        ([one_class], "at least two classes"),
    ):
        with pytest.raises(ChiasmError, match=message):
            chiasm.fit(sources[0], label="most", source=sources[1:], out=tmp_path / "model")
    with pytest.raises(LabelError, match="statistics of 'most'"):
        chiasm.fit(first, label="text", out=tmp_path / "model")
    with pytest.raises(LabelError, match="shots: not with files"):
        chiasm.fit(first, label="most", shots=3, out=tmp_path / "model")
    with pytest.raises(ChiasmError, match="a report shows items"):
        chiasm.fit(first, label="most", out=tmp_path / "model", report=tmp_path / "report.html")
    with pytest.raises(SpaceError, match="statistics of labels"):
        chiasm.align(parties[2], source=first)
    with pytest.raises(LabelError, match="go with a label"):
        chiasm.statistics(parties[0], modalities=["image"], out=tmp_path / "none.safetensors")
    monkeypatch.setattr(encoders, "resolve", lambda *_, **__: painters("text"))
    chiasm.add([table(tmp_path / "texts.jsonl", [{"text": w, "most": w} for w in COLOURS])], to=tmp_path / "texts")
    chiasm.statistics(tmp_path / "texts", label="most", out=tmp_path / "foreign.safetensors")
    with pytest.raises(LabelError, match="other encoders"):
        chiasm.fit(second, label="most", source=tmp_path / "foreign.safetensors", out=tmp_path / "model")
    assert not (tmp_path / "model").exists()
