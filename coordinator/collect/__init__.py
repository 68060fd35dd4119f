"""URL tables: read, checked, sorted by server and cut into batches, in bounded memory."""
