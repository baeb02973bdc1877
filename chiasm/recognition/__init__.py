"""Recognition: embeddings of items -> labels."""

from chiasm.recognition.fitting import Labelled
from chiasm.recognition.ladder import RungOptions
from chiasm.recognition.modalities import Arrays, ModalityArrays
from chiasm.recognition.recognizer import Recognition, Recognizer

__all__ = ["Arrays", "Labelled", "ModalityArrays", "Recognition", "Recognizer", "RungOptions"]
