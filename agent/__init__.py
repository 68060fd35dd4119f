"""The agent: does the work that leases name, and reports it."""
