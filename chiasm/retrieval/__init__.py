"""From a query vector to ranked rows: nearest neighbours, what scores are worth, fusion, reranking, diversity."""

from chiasm.retrieval.index import ExactIndex, Hit, LanceIndex

__all__ = ["ExactIndex", "Hit", "LanceIndex"]
