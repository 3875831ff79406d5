"""A training run, from its checked input to the files that it leaves."""
