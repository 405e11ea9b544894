"""The jobs: each reads folders and writes folders. No job imports another; they hand over through the disk."""
