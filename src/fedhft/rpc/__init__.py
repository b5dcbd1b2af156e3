"""Channels, servers, interceptors, retries."""
