"""Ablations: a base and named changes of it over paired seeds, what may be said of them, and the page that says it."""
