"""Losses, the model that trains a student by them, and what a student looks like."""
