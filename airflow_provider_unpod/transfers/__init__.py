"""Operators that transfer exports to other systems."""
