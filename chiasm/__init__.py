"""chiasm: search and recognise images, texts, sounds and videos with pretrained encoders and a few labels."""

__version__ = "0.1.0"
