"""Helpers that the tests share: the stand-in Hub, the fault origin, real model files."""
