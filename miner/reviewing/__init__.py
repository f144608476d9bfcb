"""Reviewers together: their agreement, their files, and the server that takes decisions."""
