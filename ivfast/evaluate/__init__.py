"""What a search scans and finds on a data set, and the report of it."""
