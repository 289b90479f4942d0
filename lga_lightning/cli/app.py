"""The command line: which verb, and how its errors come out."""

from __future__ import annotations

import logging
import re
import sys
import warnings

from lightning.pytorch.cli import ArgsType
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.multiprocessing.spawn import ProcessRaisedException

from lga_lightning.cli.comparison import ComparisonCLI
from lga_lightning.cli.edits import LGACLI
from lga_lightning.cli.frozen import FrozenCLI
from lga_lightning.cli.moments import MomentsCLI
from lga_lightning.exceptions import LGAError, SettingError

# what Lightning says about any run, or about one in which nothing is trained: true, meant, and no news
EXPECTED = re.compile(
    "Tip: |TPU available|GPU available: False|`Trainer.fit` stopped: `max_epochs=1` reached|Seed set to|"
    "`LightningModule.configure_optimizers` returned `None`|in eval mode at the start of training|"
    "Total length of `list` across ranks is zero|have no `val_dataloader`|isinstance\\(treespec, LeafSpec\\)"
)


def run(args: ArgsType = None) -> FrozenCLI:
    """Run the command line in this process; errors about the user's input come out as :class:`LGAError`."""
    warnings.filterwarnings("ignore", f".*({EXPECTED.pattern})")
    for name in (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.fabric.utilities.rank_zero",
        "lightning.fabric.utilities.seed",
    ):
        logging.getLogger(name).addFilter(lambda record: not EXPECTED.search(record.getMessage()))
    try:
        words = list(args) if isinstance(args, list | tuple) else sys.argv[1:]
        verbs: dict[str, type[MomentsCLI] | type[ComparisonCLI]] = {"moments": MomentsCLI, "compare": ComparisonCLI}
        verb = verbs.get(words[0]) if words else None
        return verb(words[1:]) if verb else LGACLI(args)
    except MisconfigurationException as error:
        raise SettingError(str(error)) from error
    except ProcessRaisedException as error:  # of the strategies ddp_spawn and ddp_fork
        _, _, said = str(error).rpartition(f"\n{LGAError.__module__}.")
        if not said:
            raise
        raise LGAError(said.partition(": ")[2].strip()) from error
