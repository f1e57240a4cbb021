"""Adapters on language models, from few examples."""
