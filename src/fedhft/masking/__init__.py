"""Row importance and selection."""
