"""Durable job state behind one interface: SQLite for daemons, memory for embedded runs and tests."""
