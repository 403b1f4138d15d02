"""Fit, recipe, optimisers."""
