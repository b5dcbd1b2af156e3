"""The `fedhft` command."""
