"""How stage 1 is run: precision and memory, several processes, and going on after a stop.

Nothing here changes what is computed, so that a reader of the method can leave it out.
"""

from .checkpoint import Checkpoint, CheckpointWarning, remove_checkpoint
from .processes import Processes, own_device
from .resume import put, resumed, state_of
from .run import RunConfig, compiled, in_batches, sent

__all__ = ["Checkpoint", "CheckpointWarning", "Processes", "RunConfig", "compiled", "in_batches", "own_device"]
__all__ += ["put", "remove_checkpoint", "resumed", "sent", "state_of"]
