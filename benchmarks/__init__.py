"""Measurements that take minutes: run by hand, kept with their environment in `results/`."""
