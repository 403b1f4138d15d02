"""The HTML report on all runs below a folder."""
