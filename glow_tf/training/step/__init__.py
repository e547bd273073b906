"""One training step: a batch's way through the parts, losses, gradients, and their update."""
