"""The arrays of a run: opened, checked, cleaned and searched exactly."""
