"""Lock files: what they hold, how they are made, read and obeyed."""
