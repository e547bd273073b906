"""Parts, the flow that they make, and the model that users call."""
