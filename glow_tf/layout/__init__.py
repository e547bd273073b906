"""Where a flow is cut, what its parts cost, and which phase each epoch is in. Pure Python."""
