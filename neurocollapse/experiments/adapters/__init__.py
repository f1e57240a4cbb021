"""Adapters: on language models from few examples, and on a vision transformer for new classes."""
