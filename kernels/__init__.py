"""Tensors in, index pairs out: torch and triton only, nothing of images or files."""
