"""Pictures, texts and sounds that a network in 8-bit integers is made by and compared by, the same on every machine.

They are made here, so that a fingerprint never depends on the user's own files. Pictures for the ranges of layers are dead
leaves: shapes of all sizes that hide each other, whose statistics are those of photographs (Lee, Mumford & Huang 2001;
Baradad et al. 2021, arXiv:2106.05963). Those to compare by are details of photographs, which no range was taken from.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFilter

COUNT = 32  # pictures to learn from, and as many to compare by
SOUNDS = 8

TEXTS = (
    "goldfish",
    "a photo of a red car",
    "two dogs on a beach at sunset",
    "An owl, drawn with a pencil.",
    "a bowl of noodle soup with an egg and spring onions",
    "Old stone bridge over a river; in the background the towers of a cathedral",
    "how do I reset my password?",
    "What is the capital of Australia?",
    "Which papers compare linear probes with fine-tuning on few labels?",
    "invoice 2024-117 from March, net 1,240.50 EUR",
    "The patient reports chest pain since yesterday evening; no fever.",
    "X-ray of the left hand, no fracture visible.",
    "Great headphones, but the battery lasts only three hours.",
    "Never again. The room was dirty and nobody answered the phone.",
    "for item in sorted(items): total += item.price * item.count",
    "ERROR 500: connection to the database was refused",
    "Das Wetter wird morgen wieder besser, sagt der Bericht.",
    "Une petite maison blanche au bord de la mer",
    "La reunión se ha aplazado hasta el jueves por la tarde.",
    "Questo vino rosso va bene con il formaggio.",
    "Сегодня вечером будет концерт в парке.",
    "今天下午我们去博物馆看画展。",
    (
        "The train was late again, so we walked along the canal, bought bread and cheese at the market, and reached the "
        "house after dark, when the others had already eaten."
    ),
    (
        "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen. It happens in the chloroplasts of plants "
        "and algae, and in some bacteria. Nearly all life on Earth depends on it, directly or through what it eats."
    ),
)
"""Captions, questions, notes and prose, some in other languages."""


def shapes() -> list[UInt8[np.ndarray, "height width 3"]]:
    """Return drawn pictures, to take the ranges of layers from."""
    return [_leaves(np.random.default_rng([0, number])) for number in range(COUNT)]


def photographs() -> list[UInt8[np.ndarray, "height width 3"]]:
    """Return details of the two photographs that come with scikit-learn, to compare by."""
    from sklearn.datasets import load_sample_images

    images = load_sample_images().images
    details = []
    for number in range(COUNT):
        generator = np.random.default_rng([1, number])
        image = images[number % len(images)]
        height = int(generator.integers(64, image.shape[0]))
        width = min(image.shape[1], int(height * generator.uniform(0.6, 1.7)))
        top, left = (
            generator.integers(0, all_ - side + 1) for all_, side in zip(image.shape, (height, width), strict=False)
        )
        details.append(image[top : top + height, left : left + width])
    return details


def sounds(rate: int, samples: int, *, seed: int) -> list[Float[np.ndarray, " samples"]]:
    """Return tones that rise or fall with their overtones, each with some noise, float32."""
    times = np.arange(samples) / rate
    waves = []
    for number in range(SOUNDS):
        generator = np.random.default_rng([seed, number])
        first, last = np.exp(generator.uniform(np.log(60), np.log(2000), 2))
        phase = 2 * np.pi * np.cumsum(np.linspace(first, last, samples)) / rate
        tone = sum(np.sin(phase * overtone) / overtone for overtone in range(1, int(generator.integers(2, 8))))
        loudness = np.abs(np.sin(np.pi * times * generator.uniform(0.2, 4)))
        noise = generator.normal(0, generator.uniform(0.001, 0.1), samples)
        waves.append((0.2 * tone * loudness + noise).astype(np.float32))
    return waves


def _leaves(generator: np.random.Generator) -> UInt8[np.ndarray, "height width 3"]:
    side = 224
    picture = PillowImage.new("RGB", (side, side), _colour(generator))
    draw = ImageDraw.Draw(picture)
    for _ in range(int(generator.integers(5, 200))):
        radius = min(90.0, 4 / generator.uniform(0.02, 1))  # as many of each size as in a scene seen from any distance
        x, y = generator.uniform(0, side, 2)
        if generator.random() < 0.5:
            flat = radius * generator.uniform(0.3, 1)
            draw.ellipse((x - radius, y - flat, x + radius, y + flat), fill=_colour(generator))
        else:
            angles = np.sort(generator.uniform(0, 2 * np.pi, int(generator.integers(3, 7))))
            corners = [(x + radius * np.cos(angle), y + radius * np.sin(angle)) for angle in angles]
            draw.polygon(corners, fill=_colour(generator))
    if generator.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(generator.uniform(0.5, 3)))
    pixels = np.asarray(picture, np.float64)
    if generator.random() < 0.5:
        pixels = pixels + generator.normal(0, generator.uniform(2, 20), pixels.shape)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _colour(generator: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = generator.integers(0, 256, 3).tolist()
    return red, green, blue
