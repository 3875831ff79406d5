"""A base of many files: stored, searched and counted file by file, on one host or many."""
