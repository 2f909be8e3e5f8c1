"""agentdistill: distil a large tool-using agent into a small one anybody can run."""

__version__ = "0.1.0"
