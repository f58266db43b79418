"""A build: its name, its metadata, its files and their digests, what it needs to run, and which one fits a target."""
