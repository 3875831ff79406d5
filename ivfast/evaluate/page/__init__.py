"""report.html: a run, or several beside each other, on one page that needs no network."""
