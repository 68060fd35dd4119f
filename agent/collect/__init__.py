"""Collecting the URLs of a table: fetch, decode, resize, encode, write, within the hosts' budgets."""
