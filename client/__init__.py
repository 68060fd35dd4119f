"""How a person speaks to Shoal: command line, Python API, embedded mode."""
