"""Measurements: one question a file, CSV rows kept; may import anything, nobody imports it."""
