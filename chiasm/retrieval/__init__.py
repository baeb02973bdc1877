"""What scores are worth, relevance, fusion with words, reranking and diversity."""
