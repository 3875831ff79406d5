"""A base that lies in many files: stored, searched and counted file by file, on one host or many."""
