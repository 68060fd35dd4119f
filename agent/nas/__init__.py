"""Copies of finished files on a NAS, beside the downloads.

`book.py` decides (pure), `queue_file.py` remembers, `place.py` knows the NAS, `copying.py` moves bytes, `removal.py` removes local
files, `copier.py` owns the threads.
"""
