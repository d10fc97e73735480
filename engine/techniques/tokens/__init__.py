"""Techniques that change how many tokens a layer works on."""
