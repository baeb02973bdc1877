"""Moments in a collection: several rows a content, committed together, shared and removed with their file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_encoder import FakeEncoder, check, embed, rows, windows
from media_files import Film, sound_bytes, tone
from test_collection import add, write

from chiasm import media
from chiasm.encoders.base import Embeddings, Encoder
from chiasm.encoders.video import VideoEncoder
from chiasm.store import ingest as module
from chiasm.store.add import add_manifests
from chiasm.store.collection import Collection, Vectors
from chiasm.store.manifest import read_manifest
from chiasm.types import Audio

RED, BLUE = (250, 5, 5), (5, 5, 250)
FILM = Film(audio="aac", scenes=(RED, BLUE), frames=100).written("mp4")  # four seconds


def sound(*seconds_and_loudness: tuple[float, float]) -> bytes:
    return sound_bytes(np.concatenate([tone(s, 8000, amplitude=a) for s, a in seconds_and_loudness]), 8000, "WAV")


LONG = sound((1, 0.1), (1, 0.4), (0.5, 0.8))


def hearing(**options: Any) -> FakeEncoder:
    return FakeEncoder(moment=1.0, **options)


@pytest.fixture
def made(tmp_path: Path) -> Collection:
    return Collection.create(tmp_path / "collection", encoder="fake")


def spans(found: Vectors, item: str) -> list[tuple[float, float, str | None]]:
    chosen = [row for row, name in enumerate(found.items) if name == item]
    return [(float(found.starts[row]), float(found.ends[row]), found.texts[row]) for row in chosen]


def same(found: Vectors, expected: Vectors) -> None:
    for name in ("items", "slots", "modalities", "hashes", "texts", "languages"):
        assert getattr(found, name) == getattr(expected, name), name
    for name in ("vectors", "starts", "ends"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_a_file_has_one_vector_and_those_of_its_moments(made: Collection, tmp_path: Path) -> None:
    encoder = hearing()
    long = write(tmp_path / "media/long.wav", LONG)
    write(tmp_path / "media/short.wav", sound((0.7, 0.5)))
    write(tmp_path / "media/words.txt", "words")
    report = add(made, tmp_path / "media", encoder=encoder)
    assert (report.counts, report.encoded) == ({"ok": 3}, 3)
    check(made, encoder)
    found = made.vectors(encoder.fingerprint, moments=True)
    same(found.whole(), made.vectors(encoder.fingerprint))
    assert len(made.vectors(encoder.fingerprint)) == 3
    np.testing.assert_equal(spans(found, "short"), [(np.nan, np.nan, None)])
    np.testing.assert_equal(spans(found, "long"), [(np.nan, np.nan, None), (0, 1, "0"), (1, 2, "1"), (2, 2.5, "2")])
    waveform = media.load(long, rate=8000)
    assert isinstance(waveform, Audio)
    expected = np.stack([embed(part) for _, part in windows(waveform, 1.0)])
    chosen = np.flatnonzero(~np.isnan(found.starts))
    np.testing.assert_allclose(found.take(chosen).vectors, expected, rtol=1e-6)
    assert set(found.take(chosen).slots) == {"audio/0"}
    assert add(made, tmp_path / "media", encoder=encoder).unchanged == 3


@pytest.mark.parametrize("later", [False, True])
def test_copies_share_moments(later: bool, made: Collection, tmp_path: Path) -> None:
    encoder = hearing()
    write(tmp_path / "media/a.wav", LONG)
    if later:
        add(made, tmp_path / "media", encoder=encoder)
    for name in ("b", "c"):
        write(tmp_path / f"media/{name}.wav", LONG)
    add(made, tmp_path / "media", encoder=encoder)
    assert encoder.embedded == {"audio": 1}
    assert made.outcomes() == {"ok": 1, "duplicate": 2}
    found = made.vectors(encoder.fingerprint, moments=True)
    assert len(found) == 12
    for name in ("b", "c"):
        np.testing.assert_equal(spans(found, name), spans(found, "a"))
    check(made, encoder)


def test_moments_go_with_their_file(made: Collection, tmp_path: Path) -> None:
    encoder = hearing()
    for name in ("a", "b"):
        write(tmp_path / f"media/{name}.wav", sound((1.5, 0.1 if name == "a" else 0.4)))
    add(made, tmp_path / "media", encoder=encoder)
    write(tmp_path / "media/a.wav", sound((3, 0.9)))
    add(made, tmp_path / "media", encoder=encoder)
    table = made.tables.open(f"embeddings-{encoder.fingerprint}")
    assert table is not None
    assert table.count_rows() == (1 + 3) + (1 + 2), "rows of old content are left"
    made.remove(["a"])
    assert set(made.vectors(encoder.fingerprint, moments=True).items) == {"b"}
    assert len(made.vectors(encoder.fingerprint, moments=True)) == 3


class Restless(FakeEncoder):
    """Moments that are not numbers, or of nothing."""

    def encode_prepared(self, modality: Any, batch: Sequence[Any]) -> Embeddings:
        found = super().encode_prepared(modality, batch)
        assert found.moments is not None
        found.moments.vectors[:1] = 0
        found.moments.vectors[-1:] *= np.nan if self.version == "2" else 1
        return found


def test_moments_of_nothing_are_left_out_and_such_that_are_not_numbers_break_their_file(
    made: Collection, tmp_path: Path
) -> None:
    encoder = Restless(moment=1.0)
    write(tmp_path / "media/a.wav", LONG)
    add(made, tmp_path / "media", encoder=encoder)
    assert [start for start, *_ in spans(made.vectors(encoder.fingerprint, moments=True), "a")][1:] == [1, 2]
    add(made, tmp_path / "media", encoder=Restless(moment=1.0, version="2"))
    assert made.outcomes() == {"broken": 1}


def test_a_batch_of_large_sounds_is_not_collected(
    made: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):
        write(tmp_path / f"media/{number:02}.wav", sound((0.5, 0.05 * (number + 1))))  # 16 kB in memory
    encoder = hearing()
    monkeypatch.setattr(module, "READ_AHEAD_BYTES", 3 * 16_000 - 1)
    add(made, tmp_path / "media", encoder=encoder)
    assert max(encoder.batches) == 3
    assert encoder.most_live <= 3 + 3
    check(made, encoder)


def test_long_texts_are_embedded_a_few_at_a_time(made: Collection, tmp_path: Path) -> None:
    """Each has hundreds of passages, and what is embedded is committed in between."""
    for number in range(12):
        write(tmp_path / f"media/{number:02}.txt", f"{number} " + "word " * 20_000)
    encoder = FakeEncoder()
    add(made, tmp_path / "media", encoder=encoder)
    assert max(encoder.batches) == 3
    check(made, encoder)


# ------------------------------------------------------------------------------------------------------------ videos


def encoders() -> tuple[FakeEncoder, FakeEncoder, VideoEncoder]:
    """Of images, of sounds, and of videos through both."""
    images, sounds = FakeEncoder(["image"]), FakeEncoder(["audio"], moment=1.0, version="3")
    return images, sounds, VideoEncoder(images, sounds)


def add_films(collection: Collection, folder: Path, networks: Sequence[Encoder], **options: Any) -> Any:
    return add_manifests(collection, [read_manifest(folder)], networks, **options)


@pytest.fixture
def films(tmp_path: Path) -> Path:
    write(tmp_path / "media/film.mp4", FILM)
    write(tmp_path / "media/mute.mp4", Film(scenes=(BLUE, RED), frames=100).written("mp4"))
    write(tmp_path / "media/hum.wav", LONG)
    return tmp_path / "media"


def test_a_video_is_seen_and_heard(made: Collection, films: Path) -> None:
    networks = encoders()
    _, sounds, videos = networks
    report = add_films(made, films, networks)
    assert report.counts == {"ok": 3}
    seen = made.vectors(videos.fingerprint, moments=True)
    heard = made.vectors(sounds.fingerprint, moments=True)
    assert set(seen.modalities) == {"video"}
    for name in ("film", "mute"):
        whole, *shots = spans(seen, name)
        assert np.isnan(whole[0])
        np.testing.assert_allclose([(start, end) for start, end, _ in shots], [(0, 2), (2, 4)], atol=0.26)
    np.testing.assert_allclose(
        [part[:2] for part in spans(heard, "film")][:4], [(i, i + 1) for i in range(4)], atol=0.05
    )
    assert set(heard.modalities) == {"audio"}
    assert {heard.slots[row] for row, item in enumerate(heard.items) if item == "film"} == {"video/0"}
    assert "mute" not in heard.items
    # Whoever wants one vector a file sees no sound tracks.
    assert made.vectors(sounds.fingerprint).items == ("hum",)
    assert sorted(made.vectors(videos.fingerprint).items) == ["film", "mute"]
    assert {key: row["encoder"] for key, row in rows(made).items()} == {
        ("film", "video/0"): videos.fingerprint,
        ("mute", "video/0"): videos.fingerprint,
        ("hum", "audio/0"): sounds.fingerprint,
    }


def test_videos_that_are_stored_are_not_opened_again(
    made: Collection, films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = encoders()
    _, sounds, videos = networks
    add_films(made, films, networks)
    before = sounds.embedded.copy()
    copy = write(films / "copy.mp4", FILM)
    load = media.load
    monkeypatch.setattr(media, "load", lambda path, **_: pytest.fail(f"{path} was opened"))
    report = add_films(made, films, networks)
    assert (report.counts, report.unchanged) == ({"ok": 3, "duplicate": 1}, 3)
    assert sounds.embedded == before
    for network in (videos, sounds):
        found = made.vectors(network.fingerprint, moments=True)
        np.testing.assert_equal(spans(found, "copy"), spans(found, "film"))
        assert spans(found, "copy")
    copy.unlink()
    made.remove(["film"])
    assert "film" not in made.vectors(sounds.fingerprint, moments=True).items
    assert "film" not in made.vectors(videos.fingerprint, moments=True).items
    monkeypatch.setattr(media, "load", load)
    add_films(made, films, networks)  # its content is known by its copy
    assert "film" in made.vectors(sounds.fingerprint, moments=True).items


def test_one_encoder_for_everything(made: Collection, films: Path) -> None:
    """What is seen and what is heard stand in one table, under one key."""
    both = FakeEncoder(["image", "audio"], moment=1.0)
    videos = VideoEncoder(both, both)
    add_films(made, films, [both, videos])
    write(films / "copy.mp4", FILM)
    add_films(made, films, [both, videos])
    for item in ("film", "copy"):
        heard = made.vectors(both.fingerprint, moments=True)
        assert len(spans(heard, item)) >= 4
        assert made.vectors(both.fingerprint).items == ("hum",)
        assert len(spans(made.vectors(videos.fingerprint, moments=True), item)) == 3


@pytest.mark.parametrize("commits", [1, 2])
def test_a_run_that_is_cut_off_between_tables(
    commits: int, made: Collection, films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the table of sounds, and after that of videos, before the files."""
    networks = encoders()
    _, sounds, videos = networks
    append = Collection.append_vectors
    done: list[str] = []

    def cut_off(self: Collection, name: str, vectors: Vectors) -> None:
        append(self, name, vectors)
        done.append(name)
        if len(done) >= commits:  # also when the run commits what it can before it ends
            raise KeyboardInterrupt

    monkeypatch.setattr(Collection, "append_vectors", cut_off)
    with pytest.raises(KeyboardInterrupt):
        add_films(made, films, networks)
    monkeypatch.undo()
    assert done[:commits] == [f"embeddings-{network.fingerprint}" for network in (sounds, videos)][:commits]
    assert len(made.vectors(videos.fingerprint, moments=True)) == 0, "no file has them yet"
    add_films(made, films, networks)
    clean = Collection.create(made.path.with_name("clean"), encoder="fake")
    add_films(clean, films, encoders())
    for network in (sounds, videos):
        found, expected = (one.vectors(network.fingerprint, moments=True) for one in (made, clean))
        assert len(found) == len(expected)
        for item in ("film", "mute", "hum"):
            np.testing.assert_equal(spans(found, item), spans(expected, item))


def test_a_film_of_nothing_but_sound_is_a_sound(made: Collection, tmp_path: Path) -> None:
    networks = encoders()
    write(tmp_path / "media/talk.mp4", Film(video=None, audio="aac", frames=75).written("mp4"))
    add_films(made, tmp_path / "media", networks)
    assert [(key, row["modality"], row["outcome"]) for key, row in rows(made).items()] == [
        (("talk", "video/0"), "audio", "ok")
    ]
    assert len(made.vectors(networks[1].fingerprint, moments=True)) >= 4


def test_silent_moments_of_a_track_are_not_stored(made: Collection, films: Path) -> None:
    images = FakeEncoder(["image"])

    class Deaf(FakeEncoder):
        def encode_prepared(self, modality: Any, batch: Sequence[Any]) -> Embeddings:
            found = super().encode_prepared(modality, batch)
            assert found.moments is not None
            silent = replace(found.moments, vectors=0 * found.moments.vectors, texts=("",) * len(found.moments))
            return Embeddings(np.zeros_like(found.vectors), ("",) * len(batch), moments=silent)

    deaf = Deaf(["audio"], moment=1.0)
    videos = VideoEncoder(images, deaf)
    report = add_films(made, films, [images, deaf, videos])
    assert report.counts == {"ok": 2, "unsupported": 1}
    assert len(made.vectors(deaf.fingerprint, moments=True)) == 0
    film = made.vectors(videos.fingerprint)
    assert dict(zip(film.items, film.texts, strict=True)) == {"film": "", "mute": None}
