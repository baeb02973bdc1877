"""Sounds by their spectrograms: alike where they sound alike, whatever their level, rate, length and neighbours; their moments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from jaxtyping import Float
from media_files import tone

import chiasm
from chiasm.encoders.base import Embeddings, Encoder, Moments, Prepared, View
from chiasm.encoders.offline import ImageEncoder, class_names, image_weights
from chiasm.encoders.sound import DIM, NO_SPEECH, NO_WORDS, RATE, SoundEncoder, _between, spectrogram
from chiasm.errors import EncoderError
from chiasm.types import Audio, Media, Modality

Waveform = Float[np.ndarray, " samples"]


class Listener(Encoder):
    """Hears words in the samples that are 1: one moment from the first to the last of them, of the vector (1, 2)."""

    def __init__(self) -> None:
        self.name = "listener"
        self.fingerprint = "listener-1"
        self.modalities: frozenset[Modality] = frozenset({"audio"})
        self.dim = 2
        self.view = View(rate=RATE)
        self.batch_size = 8

    def prepare(self, media: Media) -> Prepared:
        assert isinstance(media, Audio)
        return np.flatnonzero(media.waveform == 1) / media.rate

    def encode_prepared(self, modality: Modality, batch: Sequence[Prepared]) -> Embeddings:
        said = [row for row, times in enumerate(batch) if len(times)]
        vectors = np.zeros((len(batch), 2), np.float32)
        vectors[said] = 1, 2
        spans = np.array([(batch[row][0], batch[row][-1]) for row in said]).reshape(-1, 2)
        moments = Moments(np.array(said, int), spans[:, 0], spans[:, 1], vectors[said], ("words",) * len(said))
        return Embeddings(vectors, tuple("words" if len(times) else "" for times in batch), moments=moments)


@pytest.fixture(scope="module")
def images() -> ImageEncoder:
    return ImageEncoder(image_weights(), class_names(), device="cpu")


@pytest.fixture(scope="module")
def encoder(images: ImageEncoder) -> SoundEncoder:
    return SoundEncoder(images)


def noise(seconds: float, seed: int = 0) -> Waveform:
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


def clicks(seconds: float, seed: int = 0) -> Waveform:
    """Two to five short clicks a second."""
    samples = np.zeros(round(seconds * RATE), np.float32)
    generator = np.random.default_rng(seed)
    for start in np.cumsum(generator.uniform(0.2, 0.5, round(seconds * 5))):
        at = round(start * RATE)
        samples[at : at + 40] = generator.normal(0, 0.5, len(samples[at : at + 40]))
    return samples


def hum(seconds: float, seed: int = 0) -> Waveform:
    """A low tone with harmonics."""
    hertz = np.random.default_rng(seed).uniform(90, 160)
    return sum((tone(seconds, RATE, number * hertz, 0.3 / number) for number in range(1, 6)), np.zeros(1, np.float32))


KINDS: dict[str, Callable[[float, int], Waveform]] = {"noise": noise, "clicks": clicks, "hum": hum}


def embedded(encoder: Encoder, *sounds: Waveform, rate: int = RATE) -> Float[np.ndarray, "sounds dim"]:
    return encoder.encode([Audio(sound, rate) for sound in sounds]).vectors


def test_a_spectrogram_shows_time_and_pitch() -> None:
    sound = np.concatenate([np.zeros(RATE, np.float32), tone(1.0, RATE, 500), tone(1.0, RATE, 4000)])
    levels = spectrogram(sound)
    assert levels.shape == (298, 128)
    assert not levels[:90].any()
    low, high = levels[150].argmax(), levels[250].argmax()
    assert 20 < low < 60 < high
    assert levels[150, high] < 64
    assert spectrogram(np.zeros(3, np.float32)).tolist() == [[0] * 128]
    assert spectrogram(tone(1 / RATE, RATE)).shape == (1, 128), "one sample"


def test_sounds_of_a_kind_are_alike(encoder: SoundEncoder) -> None:
    kinds = [name for name in KINDS for _ in range(4)]
    vectors = embedded(encoder, *(KINDS[name](1.5 + seed, seed) for name in KINDS for seed in range(4)))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -1)
    assert [kinds[row] for row in scores.argmax(axis=1)] == kinds
    same = np.equal.outer(kinds, kinds)
    assert scores[~same].max() < scores[same & (scores > -1)].min()


@pytest.mark.parametrize("gain", [1e-3, 0.1, 3.0])
def test_loudness_does_not_matter(gain: float, encoder: SoundEncoder) -> None:
    quiet, loud = embedded(encoder, gain * noise(2.0), noise(2.0))
    assert quiet @ loud > 0.9999


def test_the_rate_of_a_file_does_not_matter(encoder: SoundEncoder) -> None:
    narrow = soxr.resample(noise(3.0), RATE, 8000)  # nothing above 4 kHz
    vectors = [
        embedded(encoder, soxr.resample(narrow, 8000, rate).astype(np.float32), rate=rate)[0]
        for rate in (8000, 16_000, 48_000)
    ]
    assert np.min(np.array(vectors) @ np.array(vectors).T) > 0.999


@pytest.mark.parametrize("seconds", [0.001, 0.02, 0.5, 25.0])
def test_any_length(seconds: float, encoder: SoundEncoder) -> None:
    vector, two_seconds, other = embedded(encoder, noise(seconds), noise(2.0, seed=1), hum(2.0))
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    if seconds > 0.1:
        assert vector @ two_seconds > vector @ other


def test_deterministic_and_independent_of_the_batch(encoder: SoundEncoder) -> None:
    sounds = [KINDS[name](seconds, 3) for name in KINDS for seconds in (0.3, 2.5, 11.0)]
    together = embedded(encoder, *sounds)
    np.testing.assert_array_equal(together, embedded(encoder, *sounds))
    np.testing.assert_allclose(together, np.concatenate([embedded(encoder, sound) for sound in sounds]), atol=1e-4)
    assert embedded(encoder).shape == (0, DIM)


def test_silence_is_nothing(encoder: SoundEncoder) -> None:
    silent, heard = embedded(encoder, np.zeros(RATE, np.float32), noise(1.0))
    assert not silent.any()
    assert heard.any()


def test_long_sounds_have_moments_and_pauses_none(encoder: SoundEncoder) -> None:
    sound = np.concatenate([hum(12.0), np.zeros(20 * RATE, np.float32), noise(8.0)])
    result = encoder.encode_prepared("audio", [encoder.prepare(Audio(one, RATE)) for one in (noise(10.0), sound)])
    moments = result.moments
    assert moments is not None
    assert set(moments.owners) == {1}
    assert moments.starts.tolist() == [0, 10, 30]
    assert moments.ends.tolist() == [10, 20, 40]
    assert moments.texts == (None,) * 3
    alike = moments.vectors @ embedded(encoder, hum(3.0, 5), noise(3.0, 5)).T
    assert (alike[:, 0] > alike[:, 1]).tolist() == [True, True, False]


def test_what_lies_between_words() -> None:
    assert _between([], 25) == [(0, 25 / 3), (25 / 3, 50 / 3), (50 / 3, 25)]
    assert _between([(12, 14), (0.5, 9)], 14.5) == [(9, 12)]


def test_words_stand_beside_the_sound(images: ImageEncoder) -> None:
    both = SoundEncoder(images, Listener())
    assert both.parts == (("listener-1", 2), *SoundEncoder(images).parts)
    spoken = noise(15.0)
    spoken[4 * RATE : 6 * RATE] = 1
    result = both.encode_prepared("audio", [both.prepare(Audio(one, RATE)) for one in (spoken, noise(1.0))])
    assert result.texts == ("words", "")
    assert result.vectors[:, :2].tolist() == [[1, 2], [0, 0]]
    np.testing.assert_allclose(result.vectors[1, 2:], embedded(SoundEncoder(images), noise(1.0))[0], atol=1e-5)
    moments = result.moments
    assert moments is not None
    assert moments.texts == ("", "words", "")
    np.testing.assert_allclose(moments.starts, [0, 4, 6], atol=1e-3)
    np.testing.assert_allclose(moments.ends, [4, 6, 15], atol=1e-3)
    assert moments.vectors[:, :2].tolist() == [[0, 0], [1, 2], [0, 0]]
    assert moments.vectors[0, 2:] @ moments.vectors[2, 2:] > moments.vectors[1, 2:] @ moments.vectors[0, 2:]
    assert [both.remark(text) for text in ("words", "", None)] == ["", NO_WORDS, NO_SPEECH]


def test_what_it_says_about_itself(images: ImageEncoder, encoder: SoundEncoder) -> None:
    class Other(Listener):
        def __init__(self) -> None:
            super().__init__()
            self.fingerprint = "listener-2"

    fingerprints = {
        one.fingerprint for one in (encoder, SoundEncoder(images, Listener()), SoundEncoder(images, Other()))
    }
    assert len(fingerprints) == 3
    assert SoundEncoder(images).fingerprint == encoder.fingerprint
    with pytest.raises(EncoderError, match="take image"):
        SoundEncoder(Listener())
    with pytest.raises(EncoderError, match="take audio"):
        SoundEncoder(images, images)


# ------------------------------------------------------------------------------------------------- through the verbs


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of sounds of three kinds, a text, and a silent file."""
    folder = tmp_path_factory.mktemp("sounds")
    for name, make in KINDS.items():
        (folder / name).mkdir()
        for seed in range(6):
            soundfile.write(folder / name / f"{seed}.wav", make(1.0 + seed / 4, seed), RATE)
    soundfile.write(folder / "silent.wav", np.zeros(RATE), RATE)
    (folder / "words.txt").write_text("a dog barks at the moon")
    return folder


@pytest.mark.parametrize("speaks", [True, False])
def test_sounds_find_sounds_like_them_and_teach_a_recogniser(
    speaks: bool, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not speaks:
        monkeypatch.setattr("chiasm.encoders.offline.whisper_folder", lambda: None)
    report = chiasm.add([sounds], to=tmp_path / "c")
    assert report.counts == {"ok": 19, "silent": 1}
    assert report.notes[0] == f"18 files: {NO_WORDS if speaks else NO_SPEECH}"
    assert len(report.notes) == 1 + (not speaks), "without speech, what can be compared is said, too"
    for name, make in KINDS.items():
        soundfile.write(tmp_path / "asked.wav", make(3.0, 9), RATE)
        found = chiasm.search(tmp_path / "c", audio=tmp_path / "asked.wav", k=5)
        assert ("no words were recognised" in found.notes[0]) == speaks
        hits = found.hits
        assert [Path(str(hit.path)).parent.name for hit in hits] == [name] * 5
    with pytest.raises(chiasm.ChiasmError, match="cannot be found by this query"):
        chiasm.search(tmp_path / "c", audio=tmp_path / "asked.wav", modality="text")
    hits = chiasm.search(tmp_path / "c", "a barking dog").hits
    assert [hit.modality for hit in hits] == ["text"], "words say nothing about them"

    again = chiasm.add([sounds], to=tmp_path / "c")
    assert (again.encoded, again.notes) == (0, report.notes[:1])
    fitted = chiasm.fit(tmp_path / "c", label="label", out=tmp_path / "model")
    assert fitted.metrics["f1_macro"] > 0.9
