"""What the chat screen is given to open things with: the command line knows the flags."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentdistill.agent.knowledge import Knowledge
    from agentdistill.models.base import BaseModel
    from agentdistill.stages.chat.conversation import Conversation
    from agentdistill.stages.chat.events import Listener
    from agentdistill.stages.spending import Price
    from agentdistill.types import Retriever


@dataclass(frozen=True)
class Parts:
    """Openers by SPEC, and the names of what is open at the start. Each may take seconds, and raises
    AgentDistillError."""

    conversation: Callable[[Listener, Path | None], Conversation]
    model: Callable[[str], tuple[BaseModel, Price | None]]
    retriever: Callable[[str], Retriever]
    knowledge: Callable[[str], Knowledge | None]
    model_name: str
    sandbox: str = "auto"
    retriever_name: str | None = None
    kb_name: str | None = None
