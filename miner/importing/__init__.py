"""Embeddings that exist become a run, one source, one part, one shard at a time."""
