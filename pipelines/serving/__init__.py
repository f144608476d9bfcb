"""The HTTP service: its app, its routes, its limits, its batches."""
