"""Techniques that compute in fewer bits."""
