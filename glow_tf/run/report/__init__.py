"""The page that a run leaves, and the page that compares several runs."""
