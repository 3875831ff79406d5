"""Both backends against each other, and both against float64 NumPy."""
