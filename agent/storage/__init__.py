"""What lies on the disk: partial files, chunk maps, layouts, manifests."""
