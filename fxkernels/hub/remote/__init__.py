"""The Hub: the one door to huggingface_hub, its cache, names to commits, the files of a commit, and whose code may run."""
