"""The client agent: local training behind NAT."""
