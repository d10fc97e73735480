"""What several backbones share: attention opened as a site, text encoders, denoisers of VAE latents."""
