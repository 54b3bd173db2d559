"""Many pages made into one complete list, with the evidence that it is complete."""
