"""A trained run in other engines, one script each: `python -m examples.NAME --help`. docs/engines.md says which."""
