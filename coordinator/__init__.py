"""The coordinator: resolves sources, decides who does what, remembers what is done."""
