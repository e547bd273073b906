"""What is measured apart from studies: times, memory, faults, hostile input, uses of trained models."""
