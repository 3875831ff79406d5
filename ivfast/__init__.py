"""Learns the cluster centers of an inverted-file (IVF) vector index."""

__version__ = "0.1.0"
