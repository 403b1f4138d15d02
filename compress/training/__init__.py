"""Fit with callbacks, recipe, optimisers, a run in a folder."""
