"""Checks of a deployed stack, by HTTP and nothing else: `make smoke`."""
