"""`agentdistill.visible`, by the name under which the terminals import it."""

from agentdistill.visible import visible, visible_line

__all__ = ["visible", "visible_line"]
