"""Unpacking archives: all of one or nothing, never outside its folder, never more than the limits allow."""
