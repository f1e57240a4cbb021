"""Weights over training: most of their directions never move."""
