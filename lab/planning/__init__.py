"""What a run would take on a cluster."""
