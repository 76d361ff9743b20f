"""The outcome of the first pass, stored so that an interrupted preparation need not make it again."""

import io
import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.data.summary import Summary
from pipeline.tokens.discretizer import Discretizer
from pipeline.tokens.layout import TransitionLayout

_SUMMARY = "summary."


@dataclass(frozen=True)
class Fit:
    """Bin edges, and what the statistics say.

    Attributes:
        summary: Of all episodes, without the sample.
        discretizer: The edges found.
        distinct: (D,) different values of each column in the sample.
        sampled_steps: Size of the sample.
    """

    summary: Summary
    discretizer: Discretizer
    distinct: NDArray[np.int64]
    sampled_steps: int

    def to_bytes(self, key: str) -> bytes:
        """Returns the fit as an `.npz`.

        Args:
            key: Names what it was made from; `from_bytes` wants the same.
        """
        layout = self.discretizer.layout
        facts = {
            "key": key,
            "sampled_steps": self.sampled_steps,
            "action_dim": layout.action_dim,
            "num_bins": layout.num_bins,
            "bins": layout.bins,
            "observation_names": layout.observation_names,
        }
        arrays = {f"{_SUMMARY}{name}": array for name, array in vars(self.summary).items()}
        buffer = io.BytesIO()
        np.savez(
            buffer,
            allow_pickle=False,
            facts=np.array(json.dumps(facts)),
            edges=self.discretizer.edges,
            centers=self.discretizer.centers,
            distinct=self.distinct,
            **arrays,
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, key: str) -> "Fit | None":
        """Returns the fit that `to_bytes` wrote with the same key, None if it was another one."""
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            facts = json.loads(str(archive["facts"]))
            if facts["key"] != key:
                return None
            names = tuple(facts["observation_names"])
            layout = TransitionLayout(len(names), facts["action_dim"], facts["num_bins"], tuple(facts["bins"]), names)
            summary = {
                name.removeprefix(_SUMMARY): archive[name] for name in archive.files if name.startswith(_SUMMARY)
            }
            discretizer = Discretizer(layout, archive["edges"], archive["centers"])
            return cls(Summary(**summary), discretizer, archive["distinct"], facts["sampled_steps"])
