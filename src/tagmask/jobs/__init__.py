"""The jobs: each reads folders and writes folders. They hand over through the disk; none imports another."""
