"""The library: which models, datasets and files lie on the disks of this machine, and what may be done with them.

The web page and ``shoal models`` share it. `Library` (``library.py``) is the way in; the rest is pure, or touches one folder.
"""
