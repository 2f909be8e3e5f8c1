"""A conversation with an agent, without a screen: the engine under `agentdistill chat`."""
