"""Images and labels: stock sets, folders, decoding, splits, batches."""
