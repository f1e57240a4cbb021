"""Collapse in language models."""
