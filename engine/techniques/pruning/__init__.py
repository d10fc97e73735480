"""Techniques that answer from what an earlier step computed."""
