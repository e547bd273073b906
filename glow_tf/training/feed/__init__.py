"""What `fit` and `evaluate` are given, as batches."""
