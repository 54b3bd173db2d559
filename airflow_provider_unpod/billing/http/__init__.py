"""One request to the Unpod billing API: sent, paced, retried, cancelled, and its response understood."""
