"""Matrices recovered by full, compressed and narrow networks."""
