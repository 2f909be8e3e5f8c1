"""The whole weights of a student that FSDP or DeepSpeed ZeRO 3 has cut up among processes.

Guaranteed: nothing is gathered where every process has all weights (one process, DDP). Not guaranteed: that
it fits: the weights are put together in the first process's memory once, at the end.
"""

from __future__ import annotations

from typing import Any

import torch


def gathered(trainer: Any) -> dict[str, torch.Tensor] | None:
    """To be called by all processes: weights by name, on the CPU, in the first process; empty in the others,
    and None where nothing is cut up."""
    from accelerate import DistributedType
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    accelerator = trainer.accelerator
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        if accelerator.deepspeed_config["zero_optimization"]["stage"] < 3:
            return None
        weights = accelerator.get_state_dict(trainer.model_wrapped)
        unset_hf_deepspeed_config()  # else whatever is loaded from here on would be cut up too
    elif accelerator.distributed_type == DistributedType.FSDP:
        weights = accelerator.get_state_dict(trainer.model)
    else:
        return None
    if not accelerator.is_main_process:
        return {}
    # Copies: on a CPU what comes back is a tensor that may still be on its way, and that can't be saved.
    return {name: torch.empty(w.shape, dtype=w.dtype).copy_(w.detach()) for name, w in weights.items()}
