"""Optimizers, their rates, and averages of weights."""
