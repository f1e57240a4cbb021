"""Experiments: a setting, the datasets it gives, and their figures."""

from neurocollapse.experiments.first_look import FirstLook, first_look

__all__ = ["FirstLook", "first_look"]
