"""One vendor per module: each implements a port and translates the vendor's errors to ours."""
