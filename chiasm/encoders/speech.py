"""Speech to embeddings through words: Whisper transcribes, a text encoder embeds the transcript.

Whisper (Radford et al. 2022, arXiv:2212.04356) in the form of CTranslate2, loaded by faster-whisper. Speech is found
first (Silero's detector, which faster-whisper brings) and cut at pauses into windows, however long the sound is. Each
window is a moment, with its times, its transcript and its vector. A sound of one moment is heard whole: the detector
finds the edges of a single word so badly that "echo" became "Backo". Where the model is found is left to `offline`, the
embedding of texts to the text encoder.

A window has several readings (the hypotheses of the beam search), and its vector is the mean of theirs, weighted by
their probabilities. The likeliest is its transcript. So "4" lies near "four", and a word misheard is not lost.

Whisper was trained on windows of 30 s and pads what is shorter. Most of the work is in the padding, so here windows
are padded to 15 s only, and one whose transcript looks like a loop is done again with 30 s. That costs a quarter.
"""

from __future__ import annotations

import importlib.util
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from jaxtyping import Float

from chiasm import work
from chiasm._optional import require
from chiasm.cores import usable_cores
from chiasm.encoders.base import Embeddings, Encoder, Moments, Prepared, View, resample
from chiasm.encoders.cache import file_digest, fingerprint
from chiasm.encoders.licence import PretrainedModel, licence_of_folder, licence_of_package
from chiasm.encoders.runtime import Device, check_device
from chiasm.errors import EncoderError
from chiasm.types import Audio, Media, Modality, Text
from chiasm.vectors import unit_rows

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

RATE = 16_000  # samples a second
FILES = ("model.bin", "config.json", "tokenizer.json")
"""The files that a Whisper model folder must hold."""

MOMENT = 10.0  # seconds of a moment at most; a sound that is no longer is one moment

_VERSION = "4"  # of everything here that changes transcripts and moments
_SHORT, _FULL = 15, 30  # seconds that windows are padded to
_MARGIN = 5  # seconds of padding at least, with _SHORT
_PAD = 0.2  # seconds kept before and after speech
_FAINT = 0.3  # probability of speech from which a sound of one moment is heard; the detector's own bar is 0.5
_CLEAR = 0.65  # probability of speech from which words are believed whatever Whisper thinks of them
_PAUSE = 0.5  # seconds of silence at which speech may be cut
_BREAK = 1.0  # seconds of silence at which it is cut
_BLOCK = 600  # seconds that the detector, which needs several copies, hears at once
_READINGS = 5  # of a window: as many as Whisper's own search keeps (Radford et al. 2022, section 4.5)
_FLATTEN = 0.25  # exponent of the probabilities of readings: taken as they are, the first one has nearly all
_ENDS = " .,!?"  # what Whisper puts behind a single word, and nobody types
_WORDS = (
    180  # of a transcript at most to be embedded as a whole: the moments of what is longer are better than passages
)
_BATCH_CPU, _BATCH_CUDA = 4, 16
_LOOPS = 2.4  # ratio of compression above which a transcript repeats itself (Radford et al. 2022, section 4.5)
_NO_SPEECH, _UNSURE = 0.6, -1.0  # probability of no speech, mean log-probability of the tokens (ibid.)
_DOUBTED = 0.25, -0.7  # the same where it is not clear that somebody speaks: Whisper hears words in barks, too

Waveform: TypeAlias = Float[np.ndarray, " samples"]


@dataclass(frozen=True)
class _Speech:
    """A prepared sound: where somebody speaks."""

    windows: tuple[Waveform, ...]  # at RATE
    starts: tuple[float, ...]  # seconds
    ends: tuple[float, ...]
    seconds: float  # of the sound
    unclear: frozenset[int] = frozenset()  # numbers of the windows in which perhaps nobody speaks


@dataclass(frozen=True)
class _Transcript:
    """The words of a window."""

    readings: tuple[tuple[str, float], ...]  # text and weight, the likeliest first; none: no words
    language: str | None  # code; None: no words
    certainty: float  # of the language
    doubtful: bool = False  # whether it is believed only where somebody clearly speaks

    @property
    def text(self) -> str:
        """The likeliest reading; "" where there are no words."""
        return self.readings[0][0] if self.readings else ""


class SpeechEncoder(Encoder):
    """The text encoder's embeddings of what is said. Comparable with those of texts: `vector_space` is the same.

    A sound in which no words are recognised gets a row of zeros and the text "": it has no place among texts. A sound
    of more than 10 s has moments of at most 10 s, cut at pauses. The vector of a moment is the mean over up to five
    readings. What is said in several windows is embedded as one text, the likeliest readings one after the other; above
    180 words as the mean over its moments.
    """

    def __init__(
        self,
        folder: Path,
        text: Encoder,
        *,
        language: str | None = None,
        translate: bool = False,
        package: str | None = None,
        device: Device = "auto",
    ) -> None:
        """Name the model's folder; weights are read later.

        Args:
            folder: a Whisper model in the form of CTranslate2: `model.bin`, `config.json`, `tokenizer.json`.
            text: embeds the transcripts.
            language: code of the language that is spoken, e.g. `"en"`; None finds it out, sound by sound, which on
                single words goes wrong more often.
            translate: whether what is not English is written down in English, by Whisper itself.
            package: that the model comes with, whose licence is its.
            device: `"auto"` is the GPU if CTranslate2 can use one (in float16), else the CPU (in int8).

        Raises:
            MissingExtraError: faster-whisper is not installed.
            EncoderError: the folder lacks a file, the device does not exist, or `text` does not take text.
        """
        missing = [file for file in FILES if not (folder / file).is_file()]
        if missing:
            raise EncoderError(
                f"{folder} is not a Whisper model in the form of CTranslate2: it has no {' and no '.join(missing)}. "
                "Convert one with ct2-transformers-converter, or name a folder that faster-whisper downloaded"
            )
        if "text" not in text.modalities:
            raise EncoderError(f"transcripts are embedded by an encoder of texts; {text.name} does not take text")
        if importlib.util.find_spec("faster_whisper") is None:  # importing it takes half a second
            require("faster_whisper", "speech", "transcribe speech")
        self.name = f"whisper+{text.name}"
        self.modalities: frozenset[Modality] = frozenset({"audio"})
        self.dim = text.dim
        self.view = View(rate=RATE)
        self.batch_size = 32
        self._folder = folder
        self._package = package
        self._text = text
        self._language = language
        self._translate = translate
        self._device = check_device(device)
        self._threads = usable_cores()
        digests = [file_digest(file) for file in sorted(folder.iterdir()) if file.suffix in {".bin", ".json"}]
        self.fingerprint = fingerprint(
            "whisper", _VERSION, language or "", "translate" if translate else "", text.fingerprint, *digests
        )
        self._model: WhisperModel | None = None
        self._loading = Lock()

    @property
    def vector_space(self) -> str:
        """That of the text encoder."""
        return self._text.vector_space

    def models(self) -> tuple[PretrainedModel, ...]:
        """Return Whisper, with the licence that its folder or its package says, and those of the encoder of texts."""
        said = licence_of_folder(self._folder) if self._package is None else licence_of_package(self._package)
        size = sum((self._folder / file).stat().st_size for file in FILES)
        return PretrainedModel("whisper", self.fingerprint, *said, size=size), *self._text.models()

    def prepare(self, media: Media) -> Prepared:
        """Return windows of speech, waveforms of at most 10 s at 16 kHz, and their times; none where nobody speaks.

        A sound of at most 10 s is one window as it is.
        """
        self._require(media.modality)
        assert isinstance(media, Audio)
        waveform = resample(media, RATE)
        spans = _spans(waveform)
        return _Speech(
            tuple(waveform[start:end].copy() for start, end in spans),  # or it would hold the whole sound
            tuple(start / RATE for start, _ in spans),
            tuple(end / RATE for _, end in spans),
            len(waveform) / RATE,
            frozenset(number for number, (start, end) in enumerate(spans) if not _is_clear(waveform[start:end])),
        )

    def encode_prepared(self, modality: Modality, batch: Sequence[Prepared]) -> Embeddings:
        """Transcribe and embed sounds, a row each, and their moments."""
        self._require(modality)
        sounds: Sequence[_Speech] = batch
        transcripts, languages = self._transcribe(sounds)
        texts = tuple(" ".join(filter(None, (window.text for window in windows))) for windows in transcripts)
        moments = [
            (row, start, end, window)
            for row, sound in enumerate(sounds)
            if sound.seconds > MOMENT
            for start, end, window in zip(sound.starts, sound.ends, transcripts[row], strict=True)
            if window.text
        ]
        # A sound of one window is placed as that window is; of several, as the text that they make together.
        with_words = [[window for window in windows if window.text] for windows in transcripts]
        wholes = [
            windows[0] if len(windows) == 1 else _Transcript(((text, 1.0),) if text else (), None, 1.0)
            for windows, text in zip(with_words, texts, strict=True)
        ]
        every = self._embed([*wholes, *(window for *_, window in moments)])
        vectors, own = every[: len(sounds)], every[len(sounds) :]
        owners = np.array([row for row, *_ in moments], int)
        spans = np.array([(start, end) for _, start, end, _ in moments]).reshape(-1, 2)
        for row, text in enumerate(texts):
            if len(text.split()) > _WORDS and (owners == row).any():
                vectors[row] = own[owners == row].mean(axis=0)
        return Embeddings(
            vectors,
            texts,
            languages,
            Moments(owners, spans[:, 0], spans[:, 1], own, tuple(window.text for *_, window in moments)),
        )

    def _embed(self, transcripts: Sequence[_Transcript]) -> Float[np.ndarray, "transcripts dim"]:
        """Return the weighted mean of the embeddings of the readings, unit length; a row of zeros where there are none."""
        texts = sorted({text for transcript in transcripts for text, _ in transcript.readings})
        of_text = np.zeros((len(texts), self.dim), np.float32)
        if texts:
            of_text[:] = self._text.encode([Text(text.rstrip(_ENDS) or text) for text in texts]).vectors
        place = {text: row for row, text in enumerate(texts)}
        vectors = np.zeros((len(transcripts), self.dim), np.float32)
        for row, transcript in enumerate(transcripts):
            for text, weight in transcript.readings:
                vectors[row] += weight * of_text[place[text]]
        return unit_rows(vectors)

    def _transcribe(self, sounds: Sequence[_Speech]) -> tuple[list[list[_Transcript]], tuple[str | None, ...]]:
        """Transcribe every window of each sound; also return the language of each sound."""
        rows = [row for row, sound in enumerate(sounds) for _ in sound.windows]
        windows = [window for sound in sounds for window in sound.windows]
        unclear = [number in sound.unclear for sound in sounds for number in range(len(sound.windows))]

        def believed(heard: Sequence[_Transcript], numbers: Sequence[int]) -> list[_Transcript]:
            return [
                _Transcript((), None, one.certainty) if one.doubtful and unclear[number] else one
                for one, number in zip(heard, numbers, strict=True)
            ]

        transcripts = self._transcribe_windows(windows, [self._language] * len(windows))
        transcripts = believed(transcripts, range(len(windows)))
        # One sound is in one language: that of most of it. What was taken for another one is heard again.
        votes: list[dict[str, float]] = [{} for _ in sounds]
        for row, window, transcript in zip(rows, windows, transcripts, strict=True):
            if transcript.language is not None:
                weight = transcript.certainty * len(window)
                votes[row][transcript.language] = votes[row].get(transcript.language, 0.0) + weight
        languages = tuple(max(vote, key=vote.__getitem__) if vote else None for vote in votes)
        wrong = [
            number for number, row in enumerate(rows) if transcripts[number].language not in (None, languages[row])
        ]
        again = self._transcribe_windows(
            [windows[number] for number in wrong], [languages[rows[number]] for number in wrong]
        )
        for number, transcript in zip(wrong, believed(again, wrong), strict=True):
            transcripts[number] = transcript
        by_sound: list[list[_Transcript]] = [[] for _ in sounds]
        for row, transcript in zip(rows, transcripts, strict=True):
            by_sound[row].append(transcript)
        return by_sound, languages

    def _transcribe_windows(self, windows: Sequence[Waveform], languages: Sequence[str | None]) -> list[_Transcript]:
        """Transcribe windows, in batches on all cores."""
        if not windows:
            return []
        model = self._loaded()
        # Windows of like length go together, so that little is padding.
        order = sorted(range(len(windows)), key=lambda number: len(windows[number]))
        rows = _BATCH_CPU if model.model.device == "cpu" else _BATCH_CUDA
        groups = [order[start : start + rows] for start in range(0, len(order), rows)]

        def transcribe(group: Sequence[int]) -> list[_Transcript]:
            work.check()
            return self._transcribe_batch(
                [windows[number] for number in group], [languages[number] for number in group]
            )

        contexts = [copy_context() for _ in groups]
        with ThreadPoolExecutor(self._threads, thread_name_prefix="chiasm-speech") as pool:
            by_number = {
                number: transcript
                for group, transcripts in zip(
                    groups, pool.map(lambda own, group: own.run(transcribe, group), contexts, groups), strict=True
                )
                for number, transcript in zip(group, transcripts, strict=True)
            }
        return [by_number[number] for number in range(len(windows))]

    def _transcribe_batch(self, windows: Sequence[Waveform], languages: Sequence[str | None]) -> list[_Transcript]:
        """Transcribe a batch of windows."""
        longest = max(len(window) for window in windows) / RATE
        seconds = min(_FULL, max(_SHORT, int(np.ceil(longest)) + _MARGIN))
        transcripts = self._generate(windows, languages, seconds, no_repeat=0)
        for number, transcript in enumerate(transcripts):
            if _loops(transcript.text):
                transcripts[number] = self._generate([windows[number]], [transcript.language], _FULL, no_repeat=3)[0]
        return transcripts

    def _generate(
        self, windows: Sequence[Waveform], languages: Sequence[str | None], seconds: int, *, no_repeat: int
    ) -> list[_Transcript]:
        """Transcribe windows padded to `seconds`, by beam search, without words that occur again as `no_repeat`."""
        import ctranslate2

        model = self._loaded()
        features = np.stack(
            [
                model.feature_extractor(np.pad(window, (0, seconds * RATE - len(window))), padding=0)
                for window in windows
            ]
        )
        encoded = model.model.encode(ctranslate2.StorageView.from_array(features.astype(np.float32)))
        token = model.hf_tokenizer.token_to_id
        start, end = token("<|startoftranscript|>"), token("<|notimestamps|>")
        transcribe = token("<|transcribe|>")
        translate = token("<|translate|>") if self._translate else transcribe
        detections = [(language or "en", 1.0) for language in languages]
        prompts = [[start, end] for _ in windows]
        if model.model.is_multilingual:
            if None in languages:
                guesses = [ranking[0] for ranking in model.model.detect_language(encoded)]
                detections = [
                    (name.strip("<|>"), certainty) if language is None else (language, 1.0)
                    for language, (name, certainty) in zip(languages, guesses, strict=True)
                ]
            prompts = [
                [start, token(f"<|{language}|>"), translate if language != "en" else transcribe, end]
                for language, _ in detections
            ]
        results = model.model.generate(
            encoded,
            prompts,
            beam_size=_READINGS,
            num_hypotheses=_READINGS,
            max_length=min(448, 32 + 12 * seconds),  # nobody says more; a loop ends here
            no_repeat_ngram_size=no_repeat,
            return_scores=True,
            return_no_speech_prob=True,
        )
        transcripts = []
        for result, (language, certainty) in zip(results, detections, strict=True):
            # The score is a mean over the tokens; their sum is the logarithm of the probability. No tokens, no words.
            sums = [score * len(tokens) for tokens, score in zip(result.sequences_ids, result.scores, strict=True)]
            likelihood = sums[0] / (len(result.sequences_ids[0]) + 1)  # the end of the text counts as a token
            silent = result.no_speech_prob > _NO_SPEECH and likelihood < _UNSURE
            texts = [
                model.hf_tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in result.sequences_ids
            ]
            weights = np.exp(_FLATTEN * (np.array(sums) - max(sums)))
            readings = tuple(
                (text, float(weight)) for text, weight in zip(texts, weights / weights.sum(), strict=True) if text
            )
            doubtful = result.no_speech_prob > _DOUBTED[0] or likelihood < _DOUBTED[1]
            has_words = texts[0] and not silent
            transcripts.append(
                _Transcript(readings if has_words else (), language if has_words else None, certainty, doubtful)
            )
        return transcripts

    def _loaded(self) -> WhisperModel:
        with self._loading:
            if self._model is None:
                self._model = self._load()
            return self._model

    def _load(self) -> WhisperModel:
        import ctranslate2
        from faster_whisper import WhisperModel

        device = self._device
        if device == "auto":
            device = "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
        try:
            model = WhisperModel(
                str(self._folder),
                device=device,
                compute_type="int8" if device == "cpu" else "float16",
                cpu_threads=1,  # windows are done side by side, one core each, as in `runtime`
                num_workers=self._threads if device == "cpu" else 1,
                local_files_only=True,
            )
        except (RuntimeError, ValueError) as error:
            raise EncoderError(f"the Whisper model in {self._folder} cannot be loaded on {device}: {error}") from error
        language = self._language
        if language is not None and model.hf_tokenizer.token_to_id(f"<|{language}|>") is None:
            raise EncoderError(
                f"Whisper does not know the language {language!r}; it takes codes such as en, fr, de, zh, or None to "
                "find it out"
            )
        if not model.model.is_multilingual and (self._translate or language not in (None, "en")):
            raise EncoderError(
                f"the Whisper model in {self._folder} knows English only. Take a multilingual one, or leave out language "
                "and translate"
            )
        return model


def _spans(waveform: Waveform) -> list[tuple[int, int]]:
    """Return where somebody speaks, in samples: spans of at most 10 s with all speech, cut in pauses if any."""
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    if len(waveform) <= MOMENT * RATE:
        return [(0, len(waveform))] if get_speech_timestamps(waveform, VadOptions(threshold=_FAINT)) else []
    options = VadOptions(
        min_speech_duration_ms=100,
        max_speech_duration_s=MOMENT,
        min_silence_duration_ms=int(_PAUSE * 1000),
        speech_pad_ms=int(_PAD * 1000),
    )
    spans: list[tuple[int, int]] = []
    for begin in range(0, len(waveform), _BLOCK * RATE):
        for span in get_speech_timestamps(waveform[begin : begin + _BLOCK * RATE], options):
            start, end = begin + span["start"], begin + span["end"]
            pause = start - spans[-1][1] if spans else 0
            if spans and pause < (_BREAK - 2 * _PAD) * RATE and end - spans[-1][0] <= MOMENT * RATE:
                spans[-1] = spans[-1][0], end
            else:
                spans.append((start, end))
    return spans


def _is_clear(waveform: Waveform) -> bool:
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    return bool(get_speech_timestamps(waveform, VadOptions(threshold=_CLEAR, min_speech_duration_ms=0)))


def _loops(text: str) -> bool:
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw)) > _LOOPS if raw else False
