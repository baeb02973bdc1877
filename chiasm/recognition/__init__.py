"""Recognition: embeddings of items -> labels."""

from chiasm.recognition.fitting import SourceItems
from chiasm.recognition.ladder import RungOptions
from chiasm.recognition.modalities import Arrays, ModalityArrays
from chiasm.recognition.recognizer import Recognition, Recognizer

__all__ = ["Arrays", "ModalityArrays", "Recognition", "Recognizer", "RungOptions", "SourceItems"]
