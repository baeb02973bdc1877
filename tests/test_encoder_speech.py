"""Speech: cutting at pauses, batches put back in order, loops done again, and the model itself on windows of noise."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float

from chiasm.encoders.offline import TextEncoder, text_folder, whisper_folder
from chiasm.encoders.speech import RATE, SpeechEncoder, _Speech, _Transcript
from chiasm.errors import EncoderError, MissingExtraError
from chiasm.types import Audio, Text

Windows = Sequence[Float[np.ndarray, " samples"]]
Languages = Sequence[str | None]


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
    return SpeechEncoder(model, text, language="en", device="cpu")


@pytest.fixture(scope="module")
def finding(model: Path, text: TextEncoder) -> SpeechEncoder:
    """One that finds out the language."""
    return SpeechEncoder(model, text, device="cpu")


def spans(monkeypatch: pytest.MonkeyPatch, *seconds: tuple[float, float]) -> None:
    """Plant where the detector finds speech."""
    result = [{"start": round(start * RATE), "end": round(end * RATE)} for start, end in seconds]
    monkeypatch.setattr("faster_whisper.vad.get_speech_timestamps", lambda waveform, options: result)


def one_reading(text: str, language: str | None, certainty: float) -> _Transcript:
    """A window with one reading."""
    return _Transcript(((text, 1.0),) if text else (), language, certainty)


def ramp(seconds: float) -> Audio:
    return Audio(np.linspace(0, 1, round(seconds * RATE), dtype=np.float32), RATE)


def sound(*lengths: int, seconds: float = 60.0) -> _Speech:
    """A prepared sound with windows of so many samples, one a second."""
    return _Speech(
        tuple(np.zeros(length, np.float32) for length in lengths),
        tuple(float(number) for number in range(len(lengths))),
        tuple(number + 0.5 for number in range(len(lengths))),
        seconds,
    )


def plant_words(
    monkeypatch: pytest.MonkeyPatch, words: Mapping[int, str], languages: Mapping[int, str] | None = None
) -> Any:
    """Plant the words of windows, by their length; return the list of requests."""
    requests: list[tuple[int, str | None]] = []

    def transcribe(self: SpeechEncoder, windows: Windows, spoken: Languages) -> list[_Transcript]:
        requests.extend((len(window), language) for window, language in zip(windows, spoken, strict=True))
        result = []
        for window, language in zip(windows, spoken, strict=True):
            text = words.get(len(window), f"w{len(window)}")
            own = language or (languages or {}).get(len(window), "en")
            result.append(one_reading(text and f"{text}{'' if own == 'en' else ' ' + own}", own if text else None, 0.5))
        return result

    monkeypatch.setattr(SpeechEncoder, "_transcribe_batch", transcribe)
    return requests


def test_phrases_are_joined_to_moments_of_10_seconds(speech: SpeechEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    spans(monkeypatch, (1, 4), (4.3, 7), (7.5, 10.9), (11.2, 12), (13, 14), (14.59, 15), (15.61, 16))
    # 1 to 12 would be too long; 0.6 s between padded phrases are a pause of 1 s.
    expected = [(1, 10.9), (11.2, 12), (13, 15), (15.61, 16)]
    recording = ramp(70)
    result = speech.prepare(recording)
    np.testing.assert_allclose(list(zip(result.starts, result.ends, strict=True)), expected)
    assert result.seconds == 70
    for window, (start, end) in zip(result.windows, expected, strict=True):
        np.testing.assert_array_equal(window, recording.waveform[round(start * RATE) : round(end * RATE)])
        assert window.base is None, "a window holds the whole sound"


def test_long_sounds_are_searched_for_speech_block_by_block(
    speech: SpeechEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []

    def find(waveform: Float[np.ndarray, " samples"], options: object) -> list[dict[str, int]]:
        lengths.append(len(waveform))
        return [{"start": 0, "end": RATE}, {"start": len(waveform) - RATE, "end": len(waveform)}]

    monkeypatch.setattr("faster_whisper.vad.get_speech_timestamps", find)
    monkeypatch.setattr("chiasm.encoders.speech._BLOCK", 6)
    result = speech.prepare(Audio(np.zeros(15 * RATE, np.float32), RATE))
    assert [length / RATE for length in lengths[:3]] == [6, 6, 3]
    assert list(zip(result.starts, result.ends, strict=True)) == [(0, 1), (5, 7), (11, 13), (14, 15)]


def test_other_rates_are_converted(speech: SpeechEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    spans(monkeypatch, (0, 1))
    tone = np.sin(np.arange(8_000) * 0.1).astype(np.float32)
    (window,) = speech.prepare(Audio(tone, 8_000)).windows
    assert len(window) == RATE
    assert window.dtype == np.float32


def test_a_sound_of_one_moment_is_heard_whole(speech: SpeechEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[float] = []
    result = [{"start": 3 * RATE, "end": 4 * RATE}]

    def find(waveform: Float[np.ndarray, " samples"], options: Any) -> list[dict[str, int]]:
        bars.append(options.threshold)
        return result

    monkeypatch.setattr("faster_whisper.vad.get_speech_timestamps", find)
    short = ramp(10)
    (window,) = speech.prepare(short).windows
    np.testing.assert_array_equal(window, short.waveform)
    (window,) = speech.prepare(ramp(10.1)).windows
    assert len(window) == RATE, "a longer sound is cut"
    faint, clear, usual, again = bars
    assert faint < usual == 0.5 < clear == again, "a faint word is heard where there is nothing else"
    result.clear()
    assert speech.prepare(short).windows == (), "nobody speaks"


def test_silence_and_a_tone_are_not_speech(speech: SpeechEncoder) -> None:
    tone = (0.3 * np.sin(np.arange(2 * RATE) * 2 * np.pi * 440 / RATE)).astype(np.float32)
    for waveform in (np.zeros(2 * RATE, np.float32), tone):
        result = speech.encode([Audio(waveform, RATE)])
        assert result.texts == ("",)
        assert not result.vectors.any()


def test_a_window_is_placed_among_its_readings(
    speech: SpeechEncoder, text: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = (("4.", 0.6), ("four!", 0.3), ("?", 0.1))
    monkeypatch.setattr(
        SpeechEncoder,
        "_transcribe_batch",
        lambda self, windows, spoken: [_Transcript(readings, "en", 1.0) for _ in windows],
    )
    result = speech.encode_prepared("audio", [sound(RATE, seconds=1.0), sound(RATE, RATE)])
    single, double, mark = text.encode([Text("4"), Text("four"), Text("?")]).vectors
    expected = 0.6 * single + 0.3 * double + 0.1 * mark
    assert result.texts == ("4.", "4. 4.")
    np.testing.assert_allclose(result.vectors[0], expected / np.linalg.norm(expected), atol=1e-5)
    np.testing.assert_allclose(result.vectors[1], text.encode([Text("4. 4")]).vectors[0], atol=1e-5)
    assert result.moments is not None
    np.testing.assert_allclose(result.moments.vectors, result.vectors[[0, 0]], atol=1e-5)


def test_readings_have_the_weights_of_their_probabilities(
    speech: SpeechEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = speech._loaded()
    tokens = [loaded.hf_tokenizer.encode(said, add_special_tokens=False).ids for said in (" four", " 4", "")]
    quiet = [False]

    class Model:
        is_multilingual = True

        def encode(self, features: object) -> None: ...

        def generate(self, encoded: object, given: object, **options: Any) -> list[Any]:
            assert options["num_hypotheses"] == options["beam_size"] == 5
            means = [score / max(1, len(one)) for score, one in zip((-0.4, -2.0, -4.0), tokens, strict=True)]
            if quiet[0]:
                means = [mean - 3 for mean in means]
            return [SimpleNamespace(sequences_ids=tokens, scores=means, no_speech_prob=0.9)]

    monkeypatch.setattr(loaded, "model", Model())
    window = [np.zeros(RATE, np.float32)]
    (result,) = speech._generate(window, ["en"], 15, no_repeat=0)
    assert [text for text, _ in result.readings] == ["four", "4"], "no words are no reading"
    assert result.doubtful, "probably no speech"
    ratio = result.readings[1][1] / result.readings[0][1]
    assert ratio == pytest.approx(np.exp(0.25 * (-2.0 + 0.4)))
    quiet[0] = True
    (result,) = speech._generate(window, ["en"], 15, no_repeat=0)
    assert (result.text, result.readings, result.language) == ("", (), None), "unlikely words and probably no speech"


def test_doubtful_words_are_believed_where_somebody_clearly_speaks(
    speech: SpeechEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def transcribe(self: SpeechEncoder, windows: Windows, spoken: Languages) -> list[_Transcript]:
        return [_Transcript((("woof", 1.0),), "en", 1.0, doubtful=len(window) > RATE) for window in windows]

    monkeypatch.setattr(SpeechEncoder, "_transcribe_batch", transcribe)
    clear, perhaps = (
        sound(RATE, 2 * RATE, 2 * RATE),
        _Speech(sound(RATE, 2 * RATE).windows, (0, 1), (1, 3), 60.0, frozenset({0, 1})),
    )
    result = speech.encode_prepared("audio", [clear, perhaps, sound(2 * RATE)])
    assert result.texts == ("woof woof woof", "woof", "woof")
    assert result.moments is not None
    assert result.moments.owners.tolist() == [0, 0, 0, 1, 2]


def test_it_is_clear_that_somebody_speaks_where_the_detector_is_sure(
    speech: SpeechEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    loudest = 0.5

    def find(waveform: Float[np.ndarray, " samples"], options: Any) -> list[dict[str, int]]:
        return [{"start": 0, "end": len(waveform)}] if loudest >= options.threshold else []

    monkeypatch.setattr("faster_whisper.vad.get_speech_timestamps", find)
    assert speech.prepare(ramp(3)).unclear == {0}
    loudest = 0.7
    assert speech.prepare(ramp(3)).unclear == frozenset()


def test_every_sound_gets_its_own_words_in_order(speech: SpeechEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    plant_words(monkeypatch, {})
    generator = np.random.default_rng(0)
    lengths = [generator.integers(1, 9_000, size).tolist() for size in (3, 0, 1, 7, 2)]
    result = speech.encode_prepared("audio", [sound(*part) for part in lengths])
    assert result.texts == tuple(" ".join(f"w{n}" for n in part) for part in lengths)
    assert [bool(row.any()) for row in result.vectors] == [bool(part) for part in lengths]
    assert result.languages == ("en", None, "en", "en", "en")


def test_moments_have_times_words_and_vectors(
    speech: SpeechEncoder, text: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_words(monkeypatch, {1: "a red car", 2: "", 3: "two owls"})
    result = speech.encode_prepared("audio", [sound(), sound(1, 2, 3), sound(3, seconds=10.0), sound(3, seconds=180.0)])
    assert result.texts == ("", "a red car two owls", "two owls", "two owls")
    moments = result.moments
    assert moments is not None
    assert moments.owners.tolist() == [1, 1, 3], "nothing was said in one window, and one sound is a moment itself"
    assert moments.texts == ("a red car", "two owls", "two owls")
    assert (moments.starts.tolist(), moments.ends.tolist()) == ([0, 2, 0], [0.5, 2.5, 0.5])
    expected = text.encode([Text("a red car"), Text("two owls"), Text("a red car two owls")]).vectors
    np.testing.assert_allclose(moments.vectors, expected[[0, 1, 1]], atol=1e-5)
    np.testing.assert_allclose(result.vectors[1:], expected[[2, 1, 1]], atol=1e-5)


def test_long_transcripts_are_the_mean_over_their_moments(
    speech: SpeechEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_words(monkeypatch, {1: "owl " * 100, 2: "car " * 80, 3: "bus"})
    for windows, is_mean in (((1, 2), False), ((1, 2, 3), True)):
        result = speech.encode_prepared("audio", [sound(*windows)])
        assert result.moments is not None
        assert np.allclose(result.vectors[0], result.moments.vectors.mean(axis=0), atol=1e-5) == is_mean


def test_a_sound_is_in_the_language_of_most_of_it(finding: SpeechEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = plant_words(monkeypatch, {5: ""}, {10: "fr", 20: "de", 15: "fr", 5: "el", 40: "fr"})
    result = finding.encode_prepared("audio", [sound(10, 20, 15, 5), sound(40), sound(5)])
    assert result.texts == ("w10 fr w20 fr w15 fr", "w40 fr", "")
    assert result.languages == ("fr", "fr", None)
    assert sorted(requests, key=str) == sorted([*((n, None) for n in (10, 20, 15, 5, 5, 40)), (20, "fr")], key=str)


def test_translation_is_asked_of_the_model_for_what_is_not_english(
    model: Path, text: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = SpeechEncoder(model, text, translate=True, device="cpu")
    loaded = encoder._loaded()
    prompts: list[list[int]] = []

    class Model:
        is_multilingual = True
        device = "cpu"

        def encode(self, features: object) -> None: ...

        def detect_language(self, encoded: object) -> list[list[tuple[str, float]]]:
            return [[("<|fr|>", 0.9), ("<|en|>", 0.1)], [("<|en|>", 0.8)]]

        def generate(self, encoded: object, given: list[list[int]], **_: object) -> list[Any]:
            prompts.extend(given)
            tokens = loaded.hf_tokenizer.encode(" an owl", add_special_tokens=False).ids
            return [SimpleNamespace(sequences_ids=[tokens], scores=[-0.1], no_speech_prob=0.0) for _ in given]

    monkeypatch.setattr(loaded, "model", Model())
    transcripts = encoder._generate([np.zeros(RATE, np.float32)] * 2, [None, None], 15, no_repeat=0)
    assert transcripts == [one_reading("an owl", "fr", 0.9), one_reading("an owl", "en", 0.8)]
    assert [[loaded.hf_tokenizer.id_to_token(token) for token in prompt] for prompt in prompts] == [
        ["<|startoftranscript|>", "<|fr|>", "<|translate|>", "<|notimestamps|>"],
        ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"],
    ]


def test_a_model_of_english_alone_cannot_do_more(
    model: Path, text: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from faster_whisper import WhisperModel

    class English(WhisperModel):  # type: ignore[misc]  # it comes without types
        def __init__(self, *given: Any, **options: Any) -> None:
            super().__init__(*given, **options)
            self.model = SimpleNamespace(is_multilingual=False)

    monkeypatch.setattr("faster_whisper.WhisperModel", English)
    choices: list[dict[str, Any]] = [{"translate": True}, {"language": "fr"}]
    for choice in choices:
        with pytest.raises(EncoderError, match="knows English only"):
            SpeechEncoder(model, text, device="cpu", **choice)._loaded()
    SpeechEncoder(model, text, device="cpu", language="en")._loaded()


def test_a_window_that_loops_is_heard_again_in_full(speech: SpeechEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int, int]] = []

    def generate(
        self: SpeechEncoder, windows: Windows, languages: Languages, seconds: int, *, no_repeat: int
    ) -> list[_Transcript]:
        calls.append((len(windows), seconds, no_repeat))
        said = ["a crow" if no_repeat or len(window) < RATE else "crow " * 40 for window in windows]
        return [one_reading(text, "en", 1.0) for text in said]

    monkeypatch.setattr(SpeechEncoder, "_generate", generate)
    assert speech.encode_prepared("audio", [sound(RATE // 2, RATE)]).texts == ("a crow a crow",)
    assert calls == [(2, 15, 0), (1, 30, 3)]


@pytest.mark.parametrize(("seconds", "padded"), [(1, 15), (10, 15), (12, 17), (24.5, 30), (25, 30)])
def test_padding_leaves_room_to_find_the_end(
    speech: SpeechEncoder, monkeypatch: pytest.MonkeyPatch, seconds: float, padded: int
) -> None:
    result: list[int] = []

    def generate(
        self: SpeechEncoder, windows: Windows, languages: Languages, seconds: int, *, no_repeat: int
    ) -> list[_Transcript]:
        result.append(seconds)
        return [one_reading("", None, 1.0)] * len(windows)

    monkeypatch.setattr(SpeechEncoder, "_generate", generate)
    speech.encode_prepared("audio", [sound(round(seconds * RATE))])
    assert result == [padded]


def test_the_model_runs_and_a_window_does_not_depend_on_its_neighbours(speech: SpeechEncoder) -> None:
    generator = np.random.default_rng(0)
    sounds = [
        _Speech(((generator.normal(0, 0.1, n)).astype(np.float32),), (0.0,), (1.0,), 1.0) for n in (8_000, 12_000)
    ]
    together = speech.encode_prepared("audio", sounds)
    alone = [speech.encode_prepared("audio", [one]) for one in sounds]
    assert together.texts == tuple(result.texts[0] for result in alone)
    assert [bool(text) for text in together.texts] == [bool(row.any()) for row in together.vectors]


def test_the_language_is_found_where_none_is_given(finding: SpeechEncoder) -> None:
    result = finding.encode_prepared("audio", [sound(RATE)])
    assert isinstance(result.texts[0], str)
    assert (result.languages[0] is None) == (result.texts[0] == "")


def test_the_fingerprint_follows_language_and_model(model: Path, text: TextEncoder, tmp_path: Path) -> None:
    other = tmp_path / "model"
    other.mkdir()
    for name in ("model.bin", "config.json", "tokenizer.json"):
        (other / name).write_bytes(b"{}")
    made = [
        SpeechEncoder(model, text, language="en"),
        SpeechEncoder(model, text),
        SpeechEncoder(other, text, language="en"),
        SpeechEncoder(model, text, language="en", translate=True),
    ]
    assert len({encoder.fingerprint for encoder in made}) == 4
    assert SpeechEncoder(model, text, language="en").fingerprint == made[0].fingerprint


def test_a_damaged_model(text: TextEncoder, tmp_path: Path) -> None:
    for name in ("model.bin", "config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(EncoderError, match="cannot be loaded on cpu"):
        SpeechEncoder(tmp_path, text, device="cpu").encode_prepared("audio", [sound(RATE)])


def test_without_faster_whisper(model: Path, text: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'chiasm\[speech\]'"):
        SpeechEncoder(model, text)


def test_choices_that_do_not_fit(model: Path, text: TextEncoder, speech: SpeechEncoder) -> None:
    with pytest.raises(EncoderError, match="klingon"):
        SpeechEncoder(model, text, language="klingon", device="cpu").encode_prepared("audio", [sound(RATE)])
    with pytest.raises(EncoderError, match="one of auto, cpu, cuda; got 'tpu'"):
        SpeechEncoder(model, text, device="tpu")  # type: ignore[arg-type]
    with pytest.raises(EncoderError, match=r"does not take text"):
        SpeechEncoder(model, speech)
