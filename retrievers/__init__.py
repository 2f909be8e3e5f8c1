"""The retrieval programs: `python -m retrievers COMMAND`. They never import agentdistill."""
