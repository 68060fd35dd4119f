"""Side-by-side measurements against other tools. Nothing here asserts a time."""
