"""What is known of models: licences in all spellings and places, sizes, and what `--licence permissive` refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from test_hub import asked  # noqa: F401  a fixture
from tiny_models import save_bert

import chiasm
from chiasm.cli import run
from chiasm.encoders import resolve
from chiasm.encoders.base import first_of
from chiasm.encoders.licence import is_permissive, licence_of_folder, licence_of_package, models_of
from chiasm.encoders.offline import image_weights
from chiasm.encoders.tensors import read_tensors
from chiasm.errors import CollectionError, EncoderError
from chiasm.serving.engine import without_folders
from chiasm.store.collection import Collection
from chiasm.verbs.model import load_model


@pytest.mark.parametrize(
    "licence",
    [
        "apache-2.0", "Apache License 2.0", "Apache License, Version 2.0", "Apache Software License", "MIT", "The MIT License",
        "bsd", "BSD-3-Clause", "3-Clause BSD License", 'BSD 3-Clause "New" or "Revised" License', "0BSD", "isc", "unlicense",
        "cc0-1.0", "CC0", "cc-by-4.0", "CC BY 4.0", "Apache2.0", "zlib", "BSL-1.0", "MIT OR GPL-3.0", "MIT AND Apache-2.0",
    ],
)  # fmt: skip
def test_permissive_licences_in_many_spellings(licence: str) -> None:
    assert is_permissive(licence)


@pytest.mark.parametrize(
    "licence",
    [
        "", "other", "unknown", "cc-by-nc-4.0", "cc-by-sa-4.0", "CC BY-NC 4.0", "gpl-3.0", "AGPL", "mpl-2.0", "openrail", "gemma",
        "llama3.1", "other: apache-2.0", "MIT AND GPL-3.0", "Apache-2.0 WITH terms", "(MIT OR Apache-2.0) AND GPL-3.0",
        "bsd-3-clause-clear", "cc", "MIT AND unknown",
    ],
)  # fmt: skip
def test_others_are_not_permissive(licence: str) -> None:
    assert not is_permissive(licence)


@pytest.mark.parametrize(
    ("files", "licence", "place"),
    [
        ({"README.md": "---\nlicense: apache-2.0\n---\n# A model"}, "Apache-2.0", "README.md"),
        ({"README.md": "---\nlicense: [mit, cc-by-4.0]\n---\n"}, "MIT AND CC-BY-4.0", "README.md"),
        ({"README.md": "---\nlicense:\n  - mit\n- gpl-3.0\ntags:\n- a\n---\n"}, "MIT AND gpl-3.0", "README.md"),
        (
            {"README.md": "---\nlanguage: en\nlicense: 'Apache License 2.0' # as of 2024\n---\n"},
            "Apache-2.0",
            "README.md",
        ),
        ({"README.md": "---\nlicense: [mit, unknown]\n---\n"}, "MIT AND unknown", "README.md"),
        ({"README.md": "license: mit\n"}, "", ""),
        (
            {"README.md": "---\nlicense: other\nlicense_name: house-rules\nlicense_link: https://example.com\n---\n"},
            "other: house-rules",
            "README.md, https://example.com",
        ),
        ({"README.md": "---\nlicense: cc-by-nc-4.0\n---\n", "LICENSE": "MIT License\n"}, "cc-by-nc-4.0", "README.md"),
        ({"README.md": "---\nlicense: [\n---\n", "LICENSE": "MIT License\n\nCopyright\n"}, "MIT", "LICENSE"),
        ({"LICENSE.txt": "\n   Apache License\n   Version 2.0, January 2004\n"}, "Apache-2.0", "LICENSE.txt"),
        ({"LICENCE": "Rules of the house\nBe kind\n"}, "Rules of the house", "LICENCE"),
        (
            {"config.json": '{"pretrained_cfg": {"license": "bsd-3-clause"}}'},
            "BSD-3-Clause",
            "config.json, as timm has it",
        ),
        ({"config.json": '{"pretrained_cfg": []}', "README.md": "# A model"}, "", ""),
        ({"README.md": "---\nlicense: unknown\n---\n"}, "", ""),
        ({}, "", ""),
    ],
)
def test_where_a_folder_says_its_licence(files: dict[str, str], licence: str, place: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert licence_of_folder(tmp_path) == (licence, place)


def test_the_offline_encoders_say_theirs() -> None:
    networks = first_of(resolve("offline", licence="permissive"))
    known = {model.name: model for model in models_of(networks)}
    assert [known[name].licence for name in ("efficientnet-lite0", "all-MiniLM-L6-v2")] == ["Apache-2.0", "Apache-2.0"]
    tensors = read_tensors(image_weights().read_bytes())
    trained = [
        one.size for name, one in tensors.items() if not name.endswith(("running_mean", "running_var", "tracked"))
    ]
    assert known["efficientnet-lite0"].parameters == sum(trained)
    assert known["all-MiniLM-L6-v2"].parameters == 22_713_216
    assert set(known["all-MiniLM-L6-v2"].modalities) >= {"text"}
    if "audio" in networks:  # Whisper comes with other packages
        assert (known["whisper"].licence, known["whisper"].modalities) == ("MIT", ("audio", "video"))
    assert licence_of_package("no-such-package") == ("", "")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny model without a word on its licence."""
    torch.manual_seed(0)
    save_bert(tmp_path / "bert")
    return tmp_path / "bert"


def write_texts(folder: Path) -> Path:
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.txt").write_text(f"{'a cat' if number % 2 else 'the dog'} on the mat {number}")
    return folder


def test_what_is_not_permissive_is_refused_and_leaves_nothing(model: Path, tmp_path: Path) -> None:
    texts, made = write_texts(tmp_path / "texts"), tmp_path / "c"
    arguments = ["add", str(texts), "--to", str(made), "--encoder", str(model), "--licence", "permissive"]
    with pytest.raises(EncoderError, match="no licence is known"):
        chiasm.add([texts], to=made, encoder=str(model), licence="permissive")
    (model / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    with pytest.raises(EncoderError, match=r"'cc-by-nc-4.0' \(README.md\)"):
        chiasm.add([texts], to=made, encoder=f"text={model}", licence="permissive")
    assert run(arguments) == 1
    assert not made.exists()
    with pytest.raises(EncoderError, match="got 'free'"):
        chiasm.add([texts], to=made, licence="free")  # type: ignore[arg-type]
    (model / "README.md").write_text("---\nlicense: mit\n---\n")
    assert run(arguments) == 0


def test_a_collection_and_its_models_keep_what_is_known(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts, made = write_texts(tmp_path / "texts"), tmp_path / "c"
    chiasm.add([texts], to=made, encoder=str(model))
    (known,) = chiasm.status(made).models
    assert (known["name"], known["licence"], known["modalities"]) == (str(model), "", ("text",))
    assert known["fingerprint"] == resolve(str(model))[0].fingerprint
    assert known["size"] > (model / "model.safetensors").stat().st_size > 4 * known["parameters"] > 0
    (model / "README.md").write_text("---\nlicense: mit\n---\n")
    chiasm.add([texts], to=made)
    assert json.loads((made / "chiasm.json").read_text())["models"][0]["licence"] == "MIT"
    assert run(["status", str(made)]) == 0
    assert "for text: MIT (README.md), 0.0 million parameters" in " ".join(capsys.readouterr().out.split())

    with pytest.raises(EncoderError, match="no licence is known"):
        (model / "README.md").unlink()
        chiasm.reembed(made, encoder=f"{model},prompt=none", licence="permissive")
    chiasm.reembed(made, encoder="offline", licence="permissive")
    assert {one["licence"] for one in chiasm.status(made).models} >= {"Apache-2.0"}

    table = tmp_path / "table.csv"
    table.write_text(
        "id,text,label\n" + "".join(f"{n},{'a cat' if n % 2 else 'the dog'} {n},{n % 2}\n" for n in range(12))
    )
    chiasm.add([table], to=made)
    chiasm.fit(made, label="label", out=tmp_path / "m", adapter="prototypes")
    assert [one.name for one in load_model(tmp_path / "m").pretrained] == ["all-MiniLM-L6-v2"]


@pytest.mark.parametrize("damage", ["nothing", {"licence": "MIT"}, {"modalities": ["smell"]}])
def test_a_damaged_entry_is_said(damage: object, tmp_path: Path) -> None:
    Collection.create(tmp_path / "c", encoder="offline")
    header = json.loads((tmp_path / "c" / "chiasm.json").read_text())
    header["models"] = [damage]
    (tmp_path / "c" / "chiasm.json").write_text(json.dumps(header))
    with pytest.raises(CollectionError, match="damaged"):
        Collection.open(tmp_path / "c")


def test_models_of_the_hub_are_refused_by_their_cards_alone(asked: list[str], model: Path) -> None:  # noqa: F811
    snapshot = Path(constants.HF_HUB_CACHE) / "models--somebody--tiny/snapshots/abc"
    snapshot.mkdir(parents=True)
    (snapshot / "README.md").write_text("---\nlicense: gemma\n---\n")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("abc")
    (model / "README.md").write_text("---\nlicense: mit\n---\n")
    for name in ("somebody/tiny", f"text={model},image=somebody/tiny"):
        with pytest.raises(EncoderError, match="somebody/tiny has the licence 'gemma'"):
            resolve(name, licence="permissive")
    assert len(asked) == 2, "once a name"


def test_a_server_names_folders_without_their_paths() -> None:
    assert without_folders("/models/a b/clip") == "clip"
    assert without_folders("image=/models/dino,text=BAAI/bge,dim=8") == "image=dino,text=BAAI/bge,dim=8"
