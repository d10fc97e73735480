"""Latte: text to video, the pictures of AutoencoderKL frame by frame."""
