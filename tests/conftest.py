"""Fixtures that several test files use."""

from tests.commands import commands

__all__ = ["commands"]
