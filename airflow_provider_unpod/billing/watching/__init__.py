"""The same list polled again and again: find one invoice, follow many, decide what a wait makes of it."""
