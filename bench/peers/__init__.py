"""The queues that are measured, ours among them: how each is installed, set up, fed and worked."""
