"""One skeleton of every process: settings, readiness, pages, signals, a bounded allocator."""
