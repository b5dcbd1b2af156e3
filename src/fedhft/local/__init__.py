"""A federation on one machine: child processes, an embedded Redis, the packaged base model."""
