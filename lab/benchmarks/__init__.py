"""What is measured apart from studies: times, memory, faults, uses of trained models."""
