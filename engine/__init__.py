"""Compile a YAML spec into an accelerated generation pipeline, run it beside its baseline, and measure both."""
