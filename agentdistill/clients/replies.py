"""What our services answer with: JSON objects, `error` and `remedy` in those that refuse. Not trusted.

Guaranteed: nothing raises; what makes no sense is an empty object or text, and texts are short.
"""

from __future__ import annotations

import ipaddress
import json

from agentdistill.types import Json


def read_object(data: str | bytes) -> dict[str, Json]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def text(message: dict[str, Json], name: str) -> str:
    value = message.get(name)
    return value[:500] if isinstance(value, str) else ""


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
