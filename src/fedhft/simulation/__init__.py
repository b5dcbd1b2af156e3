"""A federation's rounds in one process, without sockets."""
