"""One paper, one file: `<family>/<slug>.py`. Files are found by name; there is no list to extend."""
