"""From a query's vector to ranked items. Arrays in, arrays out."""

from chiasm.retrieval.index import ExactIndex, Hit, Ranking

__all__ = ["ExactIndex", "Hit", "Ranking"]
