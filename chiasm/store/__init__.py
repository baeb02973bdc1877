"""The store: manifests, and items, outcomes, embeddings, words and feedback on disk."""
