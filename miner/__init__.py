"""The library: a sample, an embedding, a pair; one shard or one block in one process."""
