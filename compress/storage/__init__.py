"""Files that outlive a run: checkpoints, records, states; atomic, checked, resumable."""
