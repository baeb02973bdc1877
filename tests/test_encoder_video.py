"""Videos: shots found where the picture changes, windows of long shots, and sound tracks beside the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from fake_encoder import FakeEncoder
from hypothesis import given, settings
from hypothesis import strategies as st

from chiasm.encoders.base import ClassHead, Embeddings, Encoder, Moments, Prepared, View
from chiasm.encoders.video import FPS, FRAMES, WINDOW, VideoEncoder
from chiasm.errors import EncoderError
from chiasm.types import Audio, Image, Media, Modality, Text, Video

COLOURS = {"red": (250, 5, 5), "green": (5, 250, 5), "blue": (5, 5, 250), "grey": (120, 120, 120)}


class Pictures(Encoder):
    """Mean colours of images."""

    def __init__(self) -> None:
        self.name = self.fingerprint = "pictures"
        self.modalities: frozenset[Modality] = frozenset({"image"})
        self.dim = 3
        self.view = View(image_size=8)
        self.batch_size = 5
        self.batches: list[int] = []

    def prepare(self, media: Media) -> Prepared:
        self._require(media.modality)
        assert isinstance(media, Image)
        return media.pixels.mean((0, 1)) / 255

    def encode_prepared(self, modality: Modality, batch: Sequence[Prepared]) -> Embeddings:
        self._require(modality)
        self.batches.append(len(batch))
        return Embeddings(np.array(batch, np.float32).reshape(-1, 3), (None,) * len(batch))

    def class_head(self) -> ClassHead:
        return ClassHead(np.eye(3, dtype=np.float32), np.zeros(3, np.float32), ("red", "green", "blue"))


class Sounds(Encoder):
    """Writes down a word a second: the loudness in tenths. Zero is no word."""

    def __init__(self, *, speaks: bool = True) -> None:
        self.name = self.fingerprint = "sounds"
        self.modalities: frozenset[Modality] = frozenset({"audio"})
        self.dim = 2
        self.view = View(rate=100)
        self.batch_size = 4
        self.speaks = speaks

    def prepare(self, media: Media) -> Prepared:
        assert isinstance(media, Audio)
        return [round(10 * float(part.max())) for part in np.array_split(media.waveform, len(media.waveform) // 100)]

    def encode_prepared(self, modality: Modality, batch: Sequence[Prepared]) -> Embeddings:
        words = [[str(level) for level in levels if level] for levels in batch]
        moments = [
            (row, second, level)
            for row, levels in enumerate(batch)
            if len(levels) > 2
            for second, level in enumerate(levels)
            if level
        ]
        return Embeddings(
            np.array([[len(said), 1 if said else 0] for said in words], np.float32).reshape(-1, 2),
            tuple(" ".join(said) for said in words),
            tuple("en" if said else None for said in words),
            Moments(
                np.array([row for row, *_ in moments], int),
                np.array([float(second) for _, second, _ in moments]),
                np.array([second + 1.0 for _, second, _ in moments]),
                np.array([[level, 1] for *_, level in moments], np.float32).reshape(-1, 2),
                tuple(str(level) for *_, level in moments),
            ),
        )


def film(*scenes: tuple[str, float], sound: Audio | None = None, noise: float = 0.0) -> Video:
    """A video as `media.load` gives it for the view of the encoder: scenes of one colour, each some seconds long."""
    duration = sum(seconds for _, seconds in scenes)
    count = max(1, min(FRAMES, round(duration * FPS)))
    times = (np.arange(count) + 0.5) * duration / count
    ends = np.cumsum([seconds for _, seconds in scenes])
    colours = np.array([COLOURS[scenes[int(np.searchsorted(ends, time, side="right"))][0]] for time in times], float)
    colours += np.random.default_rng(0).normal(0, noise, colours.shape)
    frames = np.clip(colours, 0, 255).astype(np.uint8)[:, None, None, :].repeat(2, 1).repeat(2, 2)
    return Video(frames, times.astype(np.float32), duration, sound)


def spans(moments: Moments | None, owner: int = 0) -> list[tuple[float, float]]:
    assert moments is not None
    own = np.flatnonzero(moments.owners == owner)
    return [(float(moments.starts[row]), float(moments.ends[row])) for row in own]


def encode(encoder: Encoder, *videos: Video) -> Embeddings:
    return encoder.encode_prepared("video", [encoder.prepare(video) for video in videos])


@pytest.mark.parametrize("noise", [0.0, 4.0])
def test_scenes_are_moments(noise: float) -> None:
    result = encode(VideoEncoder(Pictures()), film(("red", 4), ("green", 1.5), ("blue", 6), ("red", 2), noise=noise))
    expected = [(0, 4), (4, 5.5), (5.5, 11.5), (11.5, 13.5)]
    np.testing.assert_allclose(spans(result.moments), expected, atol=0.26)
    assert result.moments is not None
    colours = np.array([COLOURS[name] for name in ("red", "green", "blue", "red")]) / 255
    np.testing.assert_allclose(result.moments.vectors, colours, atol=0.02)
    np.testing.assert_allclose(result.vectors[0], colours.mean(axis=0), atol=0.02)


def test_restless_pictures_are_one_shot() -> None:
    """Where every frame differs from the next, nothing stands out; a cut among such frames does."""
    generator = np.random.default_rng(3)
    drift = np.concatenate([[[200, 20 + 180 * (i % 2), 20]] for i in range(20)])
    frames = np.clip(drift + generator.normal(0, 3, drift.shape), 0, 255).astype(np.uint8)[:, None, None, :]
    times = (np.arange(20, dtype=np.float32) + 0.5) / 2
    assert spans(encode(VideoEncoder(Pictures()), Video(frames, times, 10.0)).moments) == []


def test_long_shots_are_cut_into_windows() -> None:
    result = encode(VideoEncoder(Pictures()), film(("red", 100), ("blue", 10)))
    cuts = spans(result.moments)
    assert [begin for begin, _ in cuts[1:]] == [end for _, end in cuts[:-1]]
    np.testing.assert_allclose([end for _, end in cuts], [25, 50, 75, 100, 110], atol=0.3)
    np.testing.assert_allclose(result.vectors[0], (4 * np.array(COLOURS["red"]) + COLOURS["blue"]) / 5 / 255, atol=1e-3)


def test_a_short_video_of_one_shot_is_one_moment() -> None:
    encoder = VideoEncoder(Pictures())
    result = encode(encoder, film(("red", 20)), film(("red", 2), ("blue", 2)), film(("green", 0.1)))
    assert result.moments is not None
    assert result.moments.owners.tolist() == [1, 1]
    np.testing.assert_allclose(result.vectors[2], np.array(COLOURS["green"]) / 255, atol=1e-6)
    assert (result.texts, result.track) == ((None, None, None), None)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(COLOURS)), st.floats(0.2, 90)), min_size=1, max_size=6), st.integers(1, 3)
)
def test_moments_cover_the_video_and_are_not_long(scenes: list[tuple[str, float]], copies: int) -> None:
    video = film(*scenes)
    result = encode(VideoEncoder(Pictures()), *[video] * copies)
    for owner in range(copies):
        cuts = spans(result.moments, owner)
        assert cuts == spans(result.moments, 0)
        if cuts:
            assert cuts[0][0] == 0
            assert cuts[-1][1] == pytest.approx(video.duration)
            assert [begin for begin, _ in cuts[1:]] == [end for _, end in cuts[:-1]]
            step = video.duration / len(video.frames)
            assert all(0 < end - begin <= WINDOW + 2 * step for begin, end in cuts)
        else:
            assert video.duration <= WINDOW


def test_slides_change_when_the_next_is_shown() -> None:
    """Of a slow film frames are asked for between its own: the shot ends where the next frame begins."""
    frames = np.array([COLOURS["red"]] * 3 + [COLOURS["blue"]] * 3, np.uint8)[:, None, None, :]
    slides = Video(frames, np.array([0, 0, 0, 1.6, 1.6, 1.6], np.float32), 3.0)
    np.testing.assert_allclose(spans(encode(VideoEncoder(Pictures()), slides).moments), [(0, 1.425), (1.425, 3)])


def test_frames_are_embedded_in_batches_of_the_images() -> None:
    pictures = Pictures()
    encode(VideoEncoder(pictures), film(("red", 3)), film(("blue", 4)))
    assert pictures.batches == [5, 5, 4]


def levels(*tenths: float) -> Audio:
    return Audio(np.repeat(np.array(tenths, np.float32) / 10, 100), 100)


def test_what_is_heard_stands_beside_what_is_seen() -> None:
    encoder = VideoEncoder(Pictures(), Sounds())
    result = encode(
        encoder,
        film(("red", 2)),  # no sound
        film(("red", 2), ("blue", 2), sound=levels(0, 3, 0, 7)),
        film(("red", 2), sound=levels(0, 0)),  # no words
        film(("red", 1.5), sound=levels(4)),  # a short sound is one moment
    )
    assert result.texts == (None, "3 7", "", "4")
    assert result.languages == (None, "en", None, "en")
    track = result.track
    assert track is not None
    kept = np.flatnonzero(track.vectors.any(axis=1))
    assert [track.texts[row] for row in kept] == ["3", "7", "4"]
    assert track.owners[kept].tolist() == [1, 1, 3]
    assert list(zip(track.starts[kept], track.ends[kept], strict=True)) == [(1, 2), (3, 4), (0, 1)]
    seen = encode(VideoEncoder(Pictures()), film(("red", 2), ("blue", 2)))
    np.testing.assert_array_equal(result.vectors[1], seen.vectors[0])


def test_an_encoder_of_sounds_without_moments() -> None:
    sound = FakeEncoder(["audio"])
    result = encode(VideoEncoder(Pictures(), sound), film(("red", 2), sound=levels(4, 4)))
    assert result.track is not None
    assert (result.track.starts.tolist(), result.track.ends.tolist()) == ([0], [2])
    np.testing.assert_allclose(result.track.vectors, np.full((1, sound.dim), 0.4), atol=1e-6)


def test_nothing_in_a_batch() -> None:
    result = VideoEncoder(Pictures(), Sounds()).encode_prepared("video", [])
    assert result.vectors.shape == (0, 3)
    assert result.texts == ()


def test_what_it_says_about_itself() -> None:
    pictures, sounds = Pictures(), Sounds()
    seen, heard = VideoEncoder(pictures), VideoEncoder(pictures, sounds)
    assert seen.vector_space == heard.vector_space == pictures.vector_space
    assert len({pictures.fingerprint, sounds.fingerprint, seen.fingerprint, heard.fingerprint}) == 4
    assert heard.fingerprint == VideoEncoder(Pictures(), Sounds()).fingerprint
    assert seen.view == View(image_size=8, frames=FRAMES, fps=FPS)
    assert (heard.view.track, heard.sound) == (100, sounds)
    head = heard.class_head()
    assert head is not None
    assert head.names == ("red", "green", "blue")


@pytest.mark.parametrize(
    ("encoders", "message"),
    [
        ((Sounds(),), "the image encoder of videos has to take image; sounds does not"),
        ((Pictures(), Pictures()), "the audio encoder of videos has to take audio; pictures does not"),
    ],
)
def test_encoders_that_do_not_fit(encoders: tuple[Any, ...], message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        VideoEncoder(*encoders)


def test_other_media_are_refused() -> None:
    encoder = VideoEncoder(Pictures())
    with pytest.raises(EncoderError, match="pictures takes video, not text"):
        encoder.prepare(Text("words"))
    with pytest.raises(EncoderError, match="pictures takes video, not image"):
        encoder.encode_prepared("image", [])
