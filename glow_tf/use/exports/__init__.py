"""Models that run without this package."""
