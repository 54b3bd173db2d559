"""Polls the list repeatedly: finds one invoice, tracks many, and decides whether a wait has ended."""
