"""A model that is asked with encrypted embeddings: the same answers, and neither side sees what the other keeps."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_encoder import FakeEncoder
from listening import listening
from test_serving_run import plan, table

import chiasm
from chiasm import cli, encoders
from chiasm.client import Client, ServerError
from chiasm.errors import ChiasmError
from chiasm.recognition import ModalityArrays, Recognizer
from chiasm.recognition.encrypted import (
    LARGEST_CIPHERTEXT,
    Answer,
    Key,
    Question,
    answer,
    public_part,
    with_remote_heads,
)
from chiasm.recognition.heads import Head
from chiasm.recognition.modalities import Subset
from chiasm.recognition.targets import parse_target
from chiasm.serving.run import build

RANDOM = np.random.default_rng(0)


def head_of(outputs: int, width: int, size: float = 1.0) -> Head:
    tensors = {"coef": size * RANDOM.normal(size=(outputs, width)), "intercept": size * RANDOM.normal(size=outputs)}
    return Head("linear", np.arange(outputs), tensors, {}, items=9)


def unit(width: int) -> np.ndarray:
    row = RANDOM.normal(size=width)
    return np.asarray(row / np.linalg.norm(row))


@pytest.mark.parametrize(("outputs", "width"), [(1, 1), (2, 5), (11, 1280), (40, 700), (3, 4096), (2, 4097), (3, 9001)])
@pytest.mark.parametrize("size", [1.0, 1e6])
def test_outputs_are_those_of_the_head(outputs: int, width: int, size: float) -> None:
    head, row, key = head_of(outputs, width, size), unit(width), Key()
    said = answer(head, key.encrypt(row))
    assert said.unit >= np.abs(head.tensors["coef"]).max()
    read = key.decrypt(said, outputs=outputs, width=width)
    assert np.abs(read - head.outputs(row[None])[0]).max() < 1e-4 * max(1.0, said.unit)


def test_an_answer_tells_the_sums_and_not_the_products() -> None:
    head, row, key = head_of(3, 1000), unit(1000), Key()
    question = key.encrypt(row)
    context = key._context
    from tenseal import ckks_vector_from

    slots = [np.array(ckks_vector_from(context, answer(head, question).parts[0]).decrypt()) for _ in range(2)]
    products = (head.tensors["coef"] * row).ravel()
    for own in slots:
        assert np.abs(own).max() > 1e4, "each is hidden by what is far larger"
        assert abs(np.corrcoef(own[:3000], products)[0, 1]) < 0.1
    assert abs(np.corrcoef(slots[0], slots[1])[0, 1]) < 0.1, "and by something else each time"


def test_a_question_tells_nothing_without_the_key() -> None:
    row = unit(1000)
    question = Key().encrypt(row)
    with pytest.raises(ChiasmError, match="outputs"):
        Key().decrypt(Answer(tuple(question), 1.0), outputs=9, width=1000)
    other = answer(head_of(3, 1000), question)
    read = Key().decrypt(other, outputs=3, width=1000)  # by another key: noise
    assert np.abs(read).max() > 1e3
    assert question != Key().encrypt(row)


@pytest.mark.parametrize(
    "content",
    [b"", b"xx", bytes(300_000), b"\x08" * 1000, secrets.token_bytes(200_000), bytes(LARGEST_CIPHERTEXT + 1)],
    ids=["empty", "short", "zeros", "eights", "noise", "large"],
)
def test_what_is_no_question_is_refused(content: bytes) -> None:
    with pytest.raises(ChiasmError, match=r"encrypted|at most"):
        answer(head_of(3, 1000), [content])


def test_a_question_of_another_width_is_refused() -> None:
    with pytest.raises(ChiasmError, match="1 ciphertexts; got 2"):
        answer(head_of(3, 1000), Key().encrypt(unit(5000)))
    with pytest.raises(ChiasmError, match="encrypted"):
        answer(head_of(3, 1000), Key().encrypt(unit(900)))
    whole = Key().encrypt(unit(1000))
    with pytest.raises(ChiasmError, match="encrypted"):
        answer(head_of(3, 1000), [whole[0][:-1000]])


# ---------------------------------------------------------------------------------------------------------- recognisers


def arrays_of(items: int) -> tuple[ModalityArrays, np.ndarray]:
    codes = RANDOM.integers(0, 3, items)
    centres = RANDOM.normal(size=(3, 12))
    image = (centres[codes] + RANDOM.normal(size=(items, 12))).astype(np.float32)
    text = (centres[codes][:, :8] + RANDOM.normal(size=(items, 8))).astype(np.float32)
    present = {"image": np.ones(items, bool), "text": RANDOM.random(items) < 0.7}
    return ModalityArrays({"image": image, "text": text}, present), codes


def by_encryption(recognizer: Recognizer, folder: Path) -> Recognizer:
    """What somebody has who is sent the public part and asks for the rest."""
    public_part(recognizer).save(folder)

    def ask(column: str, modalities: Subset, question: Question) -> Answer:
        return answer(recognizer.columns_[column].heads[modalities], question)

    return with_remote_heads(Recognizer.load(folder), ask)


def test_a_recogniser_says_the_same(tmp_path: Path) -> None:
    arrays, codes = arrays_of(120)
    names = np.array(["owl", "crow", "duck"])[codes]
    train, test = arrays.take(np.arange(100)), arrays.take(np.arange(100, 120))
    recognizer = Recognizer(adapter="linear").fit(train, names[:100])
    here, there = recognizer.recognise(test), by_encryption(recognizer, tmp_path / "public").recognise(test)
    assert (here.values == there.values).all()
    assert np.abs(here.probabilities - there.probabilities).max() < 1e-4
    assert (here.sets == there.sets).all()
    assert not there.unknown.any()


def test_numbers_and_several_labels_too(tmp_path: Path) -> None:
    arrays, codes = arrays_of(120)
    size = (codes * 1000.0 + arrays.vectors["image"][:, 0] * 100.0).tolist()
    marks = [["wings"] * (code < 2) + ["webs"] * (code == 2) + ["beak"] * (code != 1) for code in codes.tolist()]
    few = arrays.take(np.arange(9))
    recognizer = Recognizer().fit(arrays, parse_target(size, column="size"))
    here, there = recognizer.recognise(few), by_encryption(recognizer, tmp_path / "size").recognise(few)
    assert np.allclose(here.values, there.values, atol=0.1)
    assert np.allclose(here.upper, there.upper, atol=0.1)
    recognizer = Recognizer().fit(arrays, parse_target(marks, column="marks"))
    here, there = recognizer.recognise(few), by_encryption(recognizer, tmp_path / "marks").recognise(few)
    assert (here.values == there.values).all()


def test_the_public_part_has_neither_weights_nor_examples(tmp_path: Path) -> None:
    arrays, codes = arrays_of(60)
    recognizer = Recognizer(adapter="linear").fit(arrays, np.array(["owl", "crow", "duck"])[codes])
    public_part(recognizer).save(tmp_path / "public")
    files = b"".join(path.read_bytes() for path in (tmp_path / "public").iterdir())
    for head in recognizer.only_column_.heads.values():
        for row in (*head.tensors["coef"], head.tensors["intercept"]):
            assert row.tobytes() not in files
    for array in arrays.vectors.values():
        assert not any(row.tobytes() in files for row in array)
    column = Recognizer.load(tmp_path / "public").only_column_
    assert (column.exemplars, column.counts, column.detectors) == (None, None, {})
    assert recognizer.only_column_.counts is not None, "the model itself stays as it was"


def test_a_network_cannot_be_asked() -> None:
    arrays, codes = arrays_of(90)
    recognizer = Recognizer(adapter="network").fit(arrays, np.array(["owl", "crow", "duck"])[codes])
    with pytest.raises(ChiasmError, match="--adapter linear"):
        public_part(recognizer)


# ------------------------------------------------------------------------------------------------------ over a server


@pytest.fixture(scope="module", autouse=True)
def fake() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "resolve", lambda *_, **__: [FakeEncoder(("image", "text"))])
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A collection and a linear model of its colours."""
    root = tmp_path_factory.mktemp("made")
    chiasm.add([table(root / "media", range(30))], to=root / "collection")
    chiasm.fit(root / "collection", label="colour", out=root / "model", adapter="linear", alike=2.0)
    return root / "collection", root / "model"


@pytest.fixture(scope="module")
def server(made: tuple[Path, Path]) -> Iterator[str]:
    app = build(plan(*made))
    with listening(app) as ((host, port), _):
        yield f"http://{host}:{port}"
    app.state.shelf.close()


def test_predict_asks_a_server_that_sees_nothing(made: tuple[Path, Path], server: str, tmp_path: Path) -> None:
    new = table(tmp_path / "new", range(100, 112))
    here = chiasm.predict(made[1], [new])
    there = chiasm.predict(server, [new], encrypted=True)
    for one, other in zip(here.predictions, there.predictions, strict=True):
        assert (one.id, one.label, one.set, one.modalities) == (other.id, other.label, other.set, other.modalities)
        assert other.probabilities == pytest.approx(one.probabilities, abs=1e-4)
        assert not other.unknown


def test_the_command_asks_too(server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = table(tmp_path / "new", range(100, 103))
    assert cli.run(["predict", server, str(new), "--encrypted", "--json"]) == 0
    labels = [row["label"] for row in json.loads(capsys.readouterr().out)["predictions"]]
    assert labels == ["green", "blue", "red"]
    assert cli.run(["predict", server, str(new)]) == 1
    assert "--encrypted" in capsys.readouterr().err


def test_what_a_server_says_is_not_taken_on_its_word(server: str, tmp_path: Path, made: tuple[Path, Path]) -> None:
    new = table(tmp_path / "new", range(3))
    with pytest.raises(ChiasmError, match="fitted on embeddings of 'offline'"):
        chiasm.predict(server, [new], encrypted=True, encoder="other/encoder")
    with pytest.raises(ChiasmError, match="go with encrypted"):
        chiasm.predict(made[1], [new], encoder="offline")
    with pytest.raises(ServerError, match="does not answer"):
        chiasm.predict("http://127.0.0.1:9", [new], encrypted=True)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"version": "another"}, 409),
        ({"column": "another"}, 422),
        ({"modalities": ["audio"]}, 422),
        ({"question": [base64.b64encode(b"xx").decode()]}, 422),
        ({"question": []}, 422),
        ({"more": 1}, 422),
    ],
    ids=str,
)
def test_a_bad_question_gets_a_reason(changes: dict[str, Any], status: int, server: str) -> None:
    body = {"column": "colour", "modalities": ["image"], "question": [base64.b64encode(b"xx").decode()]}
    with Client(server) as client, pytest.raises(ServerError) as caught:
        about = client.encrypted_model()
        client._json("POST", "/v1/encrypted", {**body, "version": about["version"], **changes})
    assert caught.value.status == status


def test_a_model_that_is_no_linear_one_says_so(made: tuple[Path, Path], tmp_path: Path) -> None:
    chiasm.fit(made[0], label="colour", out=tmp_path / "network", adapter="network", alike=2.0)
    app = build(plan(made[0], tmp_path / "network"))
    with listening(app) as ((host, port), _), pytest.raises(ServerError, match="only linear heads"):
        chiasm.predict(f"http://{host}:{port}", [tmp_path / "x.txt"], encrypted=True)
    app.state.shelf.close()
