"""Measures the imports against the floor and against what one would use instead: `make bench`."""
