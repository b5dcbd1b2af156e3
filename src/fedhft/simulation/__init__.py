"""The same rounds without sockets."""
