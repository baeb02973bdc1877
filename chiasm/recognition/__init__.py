"""Recognition: embeddings of items -> labels."""

from chiasm.recognition.recognizer import Arrays, ModalityArrays, Recognizer, SubsetProbe

__all__ = ["Arrays", "ModalityArrays", "Recognizer", "SubsetProbe"]
