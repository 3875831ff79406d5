"""Which buckets the vectors of a base are stored in."""
