"""What a repository has: its builds, what their names and metadata say, which of them fits a target, and what it needs to run."""
