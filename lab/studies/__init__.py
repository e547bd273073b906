"""Variants of a run with several seeds each, and the tables, figures and pages that follow from them."""
