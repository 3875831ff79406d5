"""What ranks buckets for a vector, and what a search through them scans."""
