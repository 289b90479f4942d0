"""Records of a data set on the Hugging Face Hub, streamed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qsl

from lga_lightning.data.records import Record
from lga_lightning.exceptions import DataError

PREFIX = "hub:"
ADDRESS = re.compile(r"(?P<repository>[^@?]+)(@(?P<revision>[^?]+))?(\?(?P<options>.*))?")


@dataclass(frozen=True)
class HubSource:
    """A data set on the Hub.

    Attributes:
        repository: Its name, as in ``owner/name``.
        revision: A branch, a tag or a commit; None for the main branch.
        config: One of the data set's configurations; None for its default.
        split: One of its splits.
        file: One file of the repository, for data sets that are a folder of files.
    """

    repository: str
    revision: str | None = None
    config: str | None = None
    split: str = "train"
    file: str | None = None

    @classmethod
    def parse(cls, address: str) -> HubSource:
        """Read ``hub:owner/name@revision?config=...&split=...&file=...``.

        Raises:
            DataError: If the address is of another form.
        """
        match = ADDRESS.fullmatch(address.removeprefix(PREFIX))
        options = dict(parse_qsl(match["options"] or "", keep_blank_values=True)) if match else {}
        if match is None or not options.keys() <= {"config", "split", "file"} or not all(options.values()):
            raise DataError(
                f"{address!r} is no address of a data set on the Hub. It must be hub:owner/name, with @revision and "
                "?config=...&split=...&file=... behind it where needed (in quotes on a command line)."
            )
        return cls(match["repository"], match["revision"], **options)

    @property
    def name(self) -> str:
        """The data set, with what tells it from its siblings."""
        revision = f"@{self.revision}" if self.revision else ""
        parts = [part for part in (self.config, self.file, self.split) if part]
        return f"{self.repository}{revision} ({', '.join(parts)})"

    def records(self) -> Iterator[Record]:
        """Stream the records.

        Raises:
            DataError: If the loader fails, with what it said.
        """
        import datasets

        number = 0
        try:
            rows = iter(
                datasets.load_dataset(
                    self.repository,
                    self.config,
                    data_files=self.file,
                    split=self.split,
                    revision=self.revision,
                    streaming=True,
                )
            )
            while (values := next(rows, None)) is not None:
                number += 1
                yield Record(dict(values), f"{self.name}, row {number}")
        except Exception as error:  # the loader has many kinds of them
            raise self._unreadable(error, f" after row {number}" if number else "") from error

    def commit(self) -> str:
        """SHA of the commit that the revision stands for now.

        Raises:
            DataError: If the Hub does not say, with what it said.
        """
        from huggingface_hub import HfApi

        try:
            return str(HfApi().dataset_info(self.repository, revision=self.revision).sha)
        except Exception as error:  # of the network, of the Hub, or of access
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception, where: str = "") -> DataError:
        reason = " ".join(str(error).split()) or type(error).__name__
        return DataError(
            f"Could not read the data set {self.name} from the Hub{where}. Check its spelling, the revision, the split and "
            f"the configuration, the network and your access. The loader said: {reason[:400]}"
        )
