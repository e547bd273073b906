"""What everything else stands on: errors, files, memory, cores, imports. Pure Python."""
