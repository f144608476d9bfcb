"""Labelled pairs, and how encoders and models do on them; thresholds of other encoders."""
