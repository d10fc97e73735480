"""Techniques that share a run among several processes."""
