"""A whole fleet in virtual time: the real cores of coordinator and agents between a lying network and a shared disk."""
