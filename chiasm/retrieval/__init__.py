"""The worth of scores, relevance, fusion with words, reranking and diversity."""
