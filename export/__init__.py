"""Engines are built and proven only here."""
