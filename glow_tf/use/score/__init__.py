"""How unusual images are."""
