"""A corpus of bad images and bad shards, each with what has to become of it."""
