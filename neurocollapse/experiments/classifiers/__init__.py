"""Trained classifiers: what their layers do, and what depth does."""
