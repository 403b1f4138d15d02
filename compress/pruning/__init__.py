"""Criteria, masks, the budget over the layers, one iteration."""
