"""The engine: how images are noised, denoised and steered."""
