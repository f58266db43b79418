"""The Hub: the one door to huggingface_hub, its cache, names to commits, files of a commit, and whose code may run."""
