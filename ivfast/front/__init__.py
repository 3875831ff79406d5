"""The front door: from vectors to a searchable index in one call or one command."""
