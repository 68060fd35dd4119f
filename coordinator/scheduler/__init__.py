"""Pure decisions: which agent does what next, and how fast a host may be asked."""
