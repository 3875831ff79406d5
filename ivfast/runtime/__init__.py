"""Command line, files, progress, signals: what any run needs, whatever it computes."""
