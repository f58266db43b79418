"""That the files are the right ones: paths that stay in their repository, digests, and the check of all that is there."""
