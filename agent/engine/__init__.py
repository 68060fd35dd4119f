"""The range engine: pieces of objects over many connections into partial files."""
