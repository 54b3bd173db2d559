"""Reads many pages as one complete list, with the evidence that it is complete."""
