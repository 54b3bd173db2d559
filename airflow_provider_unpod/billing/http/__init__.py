"""Sends requests to the Unpod billing API: pacing, retries, cancellation, and the interpretation of responses."""
