"""Interceptors that every served call passes through, one file per concern."""
