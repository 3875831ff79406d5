"""Slow measurements. Each module's docstring names its command."""
