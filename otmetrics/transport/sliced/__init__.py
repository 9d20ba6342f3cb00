"""Transport along directions: sliced, max-sliced, and what is made of slices."""
