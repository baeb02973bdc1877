"""Speech: cutting at pauses, batches put back in order, loops done again, and the model itself on windows of noise."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import Float

from chiasm.encoders.offline import text_folder, whisper_folder
from chiasm.encoders.speech import RATE, SpeechEncoder
from chiasm.encoders.text import TextEncoder
from chiasm.errors import EncoderError, MissingExtraError
from chiasm.types import Audio

Windows = Sequence[Float[np.ndarray, " samples"]]


@pytest.fixture(scope="module")
def model() -> Path:
    folder = whisper_folder()
    assert folder is not None, "the development requirements bring a Whisper model"
    return folder


@pytest.fixture(scope="module")
def text() -> TextEncoder:
    return TextEncoder(text_folder(), device="cpu")


@pytest.fixture(scope="module")
def speech(model: Path, text: TextEncoder) -> SpeechEncoder:
    return SpeechEncoder(model, text, language="en", device="cpu", threads=2)


def spans(monkeypatch: pytest.MonkeyPatch, *seconds: tuple[float, float]) -> None:
    """Plant where the detector finds speech."""
    found = [{"start": round(start * RATE), "end": round(end * RATE)} for start, end in seconds]
    monkeypatch.setattr("faster_whisper.vad.get_speech_timestamps", lambda waveform, options: found)


def ramp(seconds: float) -> Audio:
    return Audio(np.linspace(0, 1, round(seconds * RATE), dtype=np.float32), RATE)


def test_phrases_are_joined_to_windows_of_25_seconds(speech: SpeechEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    spans(monkeypatch, (1, 10), (12, 25.5), (27, 40), (60, 61))
    sound = ramp(70)
    expected = [(1, 25.5), (27, 40), (60, 61)]  # 1 to 40 would be too long; 27 to 61 as well
    found = speech.prepare(sound)
    assert [len(window) / RATE for window in found] == [end - start for start, end in expected]
    for window, (start, _) in zip(found, expected, strict=True):
        assert window[0] == sound.waveform[round(start * RATE)]


def test_other_rates_are_converted(speech: SpeechEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    spans(monkeypatch, (0, 1))
    tone = np.sin(np.arange(8_000) * 0.1).astype(np.float32)
    (window,) = speech.prepare(Audio(tone, 8_000))
    assert len(window) == RATE
    assert window.dtype == np.float32


def test_every_sound_gets_its_own_words_in_order(speech: SpeechEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def hear(self: SpeechEncoder, windows: Windows) -> list[str]:
        return [f"w{len(window)}" for window in windows]

    monkeypatch.setattr(SpeechEncoder, "_hear", hear)
    generator = np.random.default_rng(0)
    lengths = [generator.integers(1, 9_000, size).tolist() for size in (3, 0, 1, 7, 2)]
    found = speech.encode_prepared("audio", [[np.zeros(n, np.float32) for n in sound] for sound in lengths])
    assert found.texts == tuple(" ".join(f"w{n}" for n in sound) for sound in lengths)
    assert [bool(row.any()) for row in found.vectors] == [bool(sound) for sound in lengths]


def test_a_window_that_loops_is_heard_again_in_full(speech: SpeechEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int, int]] = []

    def generate(self: SpeechEncoder, windows: Windows, seconds: int, *, no_repeat: int) -> list[str]:
        calls.append((len(windows), seconds, no_repeat))
        return ["a crow" if no_repeat or len(window) < RATE else "crow " * 40 for window in windows]

    monkeypatch.setattr(SpeechEncoder, "_generate", generate)
    windows = [np.zeros(RATE // 2, np.float32), np.zeros(RATE, np.float32)]
    assert speech.encode_prepared("audio", [windows]).texts == ("a crow a crow",)
    assert calls == [(2, 15, 0), (1, 30, 3)]


@pytest.mark.parametrize(("seconds", "padded"), [(1, 15), (10, 15), (12, 17), (24.5, 30), (25, 30)])
def test_padding_leaves_room_to_find_the_end(
    speech: SpeechEncoder, monkeypatch: pytest.MonkeyPatch, seconds: float, padded: int
) -> None:
    found: list[int] = []

    def generate(self: SpeechEncoder, windows: Windows, seconds: int, *, no_repeat: int) -> list[str]:
        found.append(seconds)
        return [""] * len(windows)

    monkeypatch.setattr(SpeechEncoder, "_generate", generate)
    speech.encode_prepared("audio", [[np.zeros(round(seconds * RATE), np.float32)]])
    assert found == [padded]


def test_the_model_runs_and_a_window_does_not_depend_on_its_neighbours(speech: SpeechEncoder) -> None:
    generator = np.random.default_rng(0)
    windows = [(generator.normal(0, 0.1, n)).astype(np.float32) for n in (8_000, 12_000)]
    together = speech.encode_prepared("audio", [[window] for window in windows])
    alone = [speech.encode_prepared("audio", [[window]]) for window in windows]
    assert together.texts == tuple(found.texts[0] for found in alone)
    assert [bool(text) for text in together.texts] == [bool(row.any()) for row in together.vectors]


def test_the_language_is_found_where_none_is_given(model: Path, text: TextEncoder) -> None:
    encoder = SpeechEncoder(model, text, device="cpu")
    assert isinstance(encoder.encode_prepared("audio", [[np.zeros(RATE, np.float32)]]).texts[0], str)


def test_an_unknown_language(model: Path, text: TextEncoder) -> None:
    with pytest.raises(EncoderError, match=r"does not know the language 'klingon'.*en, fr, de"):
        SpeechEncoder(model, text, language="klingon", device="cpu").encode_prepared(
            "audio", [[np.zeros(RATE, np.float32)]]
        )


def test_the_fingerprint_follows_language_and_model(model: Path, text: TextEncoder, tmp_path: Path) -> None:
    other = tmp_path / "model"
    other.mkdir()
    for name in ("model.bin", "config.json", "tokenizer.json"):
        (other / name).write_bytes(b"{}")
    made = [
        SpeechEncoder(model, text, language="en"),
        SpeechEncoder(model, text),
        SpeechEncoder(other, text, language="en"),
    ]
    assert len({encoder.fingerprint for encoder in made}) == 3
    assert SpeechEncoder(model, text, language="en").fingerprint == made[0].fingerprint


def test_a_damaged_model(text: TextEncoder, tmp_path: Path) -> None:
    for name in ("model.bin", "config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(EncoderError, match="cannot be loaded on cpu"):
        SpeechEncoder(tmp_path, text, device="cpu").encode_prepared("audio", [[np.zeros(RATE, np.float32)]])


def test_without_faster_whisper(model: Path, text: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'chiasm\[speech\]'"):
        SpeechEncoder(model, text)


def test_choices_that_do_not_fit(model: Path, text: TextEncoder, speech: SpeechEncoder) -> None:
    with pytest.raises(EncoderError, match="one of auto, cpu, cuda; got 'tpu'"):
        SpeechEncoder(model, text, device="tpu")  # type: ignore[arg-type]
    with pytest.raises(EncoderError, match=r"does not take text"):
        SpeechEncoder(model, speech)
