"""Running it fast: the training twin, folded inference, BN recalibration."""
