"""Operators that carry exports into other systems."""
