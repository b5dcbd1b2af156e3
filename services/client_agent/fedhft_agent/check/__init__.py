"""`fedhft agent check`: what would keep this machine's agent from working, found before it runs."""
