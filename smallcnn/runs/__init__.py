"""Who computes a run, and where it is kept."""
