"""The part that works."""
