"""Benchmarks: this project beside its peers, in one run, on the same seeded data. `python -m benchmarks` runs them."""
