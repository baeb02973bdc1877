"""Recognition: embeddings of items -> classes, labels and numbers."""

from chiasm.recognition.columns import Recognition
from chiasm.recognition.ladder import RungOptions
from chiasm.recognition.modalities import Arrays, ModalityArrays
from chiasm.recognition.recognizer import Recognizer
from chiasm.recognition.training_set import SourceItems

__all__ = ["Arrays", "ModalityArrays", "Recognition", "Recognizer", "RungOptions", "SourceItems"]
