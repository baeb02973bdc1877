"""Learning on embeddings: alignments, fusions and adapters, small networks that take arrays and give arrays."""
