"""Units, users, folders and sample environment files for systemd: data. ``shoal config install-systemd`` writes them."""
