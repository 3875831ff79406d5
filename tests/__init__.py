"""Claims about the shared core and about whole runs."""
