"""Several processes with a model that nobody trains."""

from __future__ import annotations

from lightning.pytorch.strategies import DDPStrategy


class FrozenDDPStrategy(DDPStrategy):
    """DDP that wraps the model only if there is a gradient to average.

    PyTorch's ``DistributedDataParallel`` refuses a module without trainable parameters, and a frozen one needs no wrapper:
    the processes only deal out requests and put their results together. Takes the arguments of Lightning's strategy.
    """

    def configure_ddp(self) -> None:
        """Wrap the model if some parameter requires a gradient."""
        if self.model is not None and any(parameter.requires_grad for parameter in self.model.parameters()):
            super().configure_ddp()
