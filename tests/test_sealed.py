"""Sealed files: read back only with their key, never in part, and nothing of them lies on a disk meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
from painter import painted, painters

import chiasm
from chiasm import encoders
from chiasm.errors import ChiasmError
from chiasm.sealed import KEY, is_sealed


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(encoders, "resolve", lambda *_, **__: painters())
    monkeypatch.delenv(KEY, raising=False)
    chiasm.add([painted(tmp_path / "media", 3)], to=tmp_path / "photos")
    return tmp_path / "photos"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_collection_comes_back_and_is_searched_where_it_is_sealed(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = [(hit.id, hit.score) for hit in chiasm.search(made, "red").hits]
    sealed, key = tmp_path / "photos.sealed", tmp_path / "key"
    chiasm.encrypt(made, out=sealed, new_key=key)
    assert key.stat().st_mode & 0o077 == 0
    assert b"1-0-0" not in sealed.read_bytes()
    monkeypatch.setenv(KEY, key.read_text())
    before = {path.name for path in Path("/dev/shm").glob("chiasm-*")}
    assert [(hit.id, hit.score) for hit in chiasm.search(sealed, "red").hits] == plain
    assert {path.name for path in Path("/dev/shm").glob("chiasm-*")} == before
    chiasm.decrypt(sealed, out=tmp_path / "again", key_file=key)
    assert contents(tmp_path / "again") == contents(made)


def test_a_sealed_model_predicts(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chiasm.fit(made, label="most", out=tmp_path / "model")
    chiasm.encrypt(tmp_path / "model", out=tmp_path / "model.sealed", new_key=tmp_path / "key")
    monkeypatch.setenv(KEY, (tmp_path / "key").read_text())
    picture = [tmp_path / "media" / "1-0-0.png"]
    ours, theirs = (chiasm.predict(tmp_path / name, picture).predictions for name in ("model.sealed", "model"))
    assert ours == theirs


def test_a_link_is_sealed_as_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "file").write_text("content")
    (tmp_path / "link").symlink_to(tmp_path / "far")
    chiasm.encrypt(tmp_path / "link", out=tmp_path / "sealed", new_key=tmp_path / "key")
    chiasm.decrypt(tmp_path / "sealed", out=tmp_path / "out", key_file=tmp_path / "key")
    assert (tmp_path / "out" / "file").read_text() == "content"


def test_keys_change(made: Path, tmp_path: Path) -> None:
    file = tmp_path / "sums.safetensors"
    chiasm.statistics(made, label="most", out=file)
    first, second, sealed = tmp_path / "first", tmp_path / "second", tmp_path / "sums.sealed"
    chiasm.encrypt(file, out=sealed, new_key=first)
    chiasm.encrypt(sealed, out=sealed, key_file=first, new_key=second)
    with pytest.raises(ChiasmError, match="another key") as error:
        chiasm.decrypt(sealed, out=tmp_path / "out", key_file=first)
    assert first.read_text().strip() not in str(error.value)
    chiasm.decrypt(sealed, out=tmp_path / "out", key_file=second)
    assert (tmp_path / "out").read_bytes() == file.read_bytes()


@pytest.mark.parametrize("size", [0, 5, 2**20, 2**20 + 1, 3 * 2**20])
def test_nothing_that_was_changed_or_cut_is_given_back(tmp_path: Path, size: int) -> None:
    source, sealed, key, out = (tmp_path / name for name in ("source", "sealed", "key", "out"))
    source.write_bytes(bytes(range(256)) * (size // 256) + b"x" * (size % 256))
    chiasm.encrypt(source, out=sealed, new_key=key)
    content = sealed.read_bytes()
    chiasm.decrypt(sealed, out=out, key_file=key)
    assert out.read_bytes() == source.read_bytes()
    out.unlink()
    block = 2**20 + 16
    first = content[:40] + content[40 + block :] if len(content) > 40 + block else content[:40]
    for wrong in (content[:-1], content[: 40 + block * (size // block)], first, content[:-9] + b"x" + content[-8:]):
        sealed.write_bytes(wrong)
        with pytest.raises(ChiasmError, match="damaged"):
            chiasm.decrypt(sealed, out=out, key_file=key)
        assert not out.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"source", "sealed", "key"}


def test_without_the_key(made: Path, tmp_path: Path) -> None:
    sealed, key = tmp_path / "photos.sealed", tmp_path / "key"
    chiasm.encrypt(made, out=sealed, new_key=key)
    with pytest.raises(ChiasmError, match="a key is needed"):
        chiasm.search(sealed, "red")
    with pytest.raises(ChiasmError, match="cannot be read by anybody"):
        chiasm.decrypt(sealed, out=tmp_path / "out", key_file=tmp_path / "lost")
    (tmp_path / "wrong").write_text("not a secret")
    with pytest.raises(ChiasmError, match="holds no key") as error:
        chiasm.decrypt(sealed, out=tmp_path / "out", key_file=tmp_path / "wrong")
    assert "not a secret" not in str(error.value)
    with pytest.raises(ChiasmError, match="not a sealed file"):
        chiasm.decrypt(key, out=tmp_path / "out", key_file=key)
    with pytest.raises(ChiasmError, match="lies in"):
        chiasm.encrypt(made, out=made / "inside", key_file=key)
    with pytest.raises(ChiasmError, match="cannot be written"):
        chiasm.decrypt(sealed, out=made, key_file=key)
    assert is_sealed(sealed)
    assert not is_sealed(key)
