"""Running it fast: the training twin (same variables, faster operations), folded inference, recalibration."""
