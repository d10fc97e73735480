"""Backbone adapters: one file or package a model family; the only place that knows how a model is built."""
