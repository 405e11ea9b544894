"""The tables that the papers print, number by number, to stand beside ours.

`published/*.csv` has one line a number, with value and standard deviation as printed ("%" are per cent; a sd
that is empty was not printed). `reads` is what the paper says its row used: the rows that AnoFPDM is compared
with had their settings searched on masks of the validation set. The setup "all" is that of papers that do
not tell positive slices from all.

hu2023    X. Hu, Y.-J. Chen, T.-Y. Ho, Y. Shi, MICCAI 2023, https://doi.org/10.1007/978-3-031-43901-8_72
che2024   Y. Che et al., AnoFPDM, https://arxiv.org/abs/2404.15683v3
feng2024  C.-M. Feng, TextDiff, MICCAI 2024, https://arxiv.org/abs/2407.05323
          The decrements in its Table 2 are not differences of the numbers beside them (ζ1 on MoNuSeg: 78.67 - 77.73 is
          0.94, 0.73 is printed); they are not kept here.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib.resources import files

__all__ = ["PUBLISHED", "Printed", "published_table"]

PUBLISHED = {
    "hu2023-table1": "Hu et al. 2023, Table 1",
    "hu2023-table2": "Hu et al. 2023, Table 2",
    "che2024-table1a": "Che et al. 2024, Table 1(a)",
    "che2024-table1b": "Che et al. 2024, Table 1(b)",
    "feng2024-table1": "Feng 2024, Table 1",
    "feng2024-table2": "Feng 2024, Table 2",
    "feng2024-table1-monuseg": "Feng 2024, Table 1",
    "feng2024-table1-qata": "Feng 2024, Table 1",
    "feng2024-table2-monuseg": "Feng 2024, Table 2",
    "feng2024-table2-qata": "Feng 2024, Table 2",
}
"""Tables by the name that a benchmark file uses, and as they are cited."""
_SETS = {"monuseg": "MoNuSeg", "qata": "QaTa-COV19"}
"""Last part of a name -> the data set of the table whose numbers it means; parameters belong to each."""


@dataclass(frozen=True)
class Printed:
    """One number of a paper.

    Parameters
    ----------
    source
        Paper and table.
    data, row
        As the paper calls them.
    reads
        What the row used besides images, as far as the paper says.
    setup
        "positives", "mixed", or "all" where the paper does not tell them apart.
    metric
        "dice", "iou", "hd95", "auprc", "seconds_per_image" or "parameters".
    unit
        "1", "%", "s", "M"; "px" for HD95: not printed, but what the published code counts in.
    value, sd
        As printed; sd is empty where there is none.
    """

    source: str
    data: str
    row: str
    reads: str
    setup: str
    metric: str
    unit: str
    value: str
    sd: str

    @property
    def number(self) -> tuple[float, float]:
        """Value and standard deviation on our scale, where 77.4 % is 0.774; NaN for no standard deviation."""
        scale = 100 if self.unit == "%" else 1
        return float(self.value) / scale, float(self.sd or "nan") / scale


def published_table(name: str) -> list[Printed]:
    """Read one table, in the order of the paper.

    Parameters
    ----------
    name
        A name of `PUBLISHED`.

    Examples
    --------
    >>> [p.value for p in published_table("hu2023-table1") if p.row == "CG-CDM"]
    ['0.563', '0.450', '19.2', '2.78']
    """
    table, _, data = name.rpartition("-")
    file = table if data in _SETS else name
    text = files("tagmask.benchmarking").joinpath("published", f"{file}.csv").read_text(encoding="utf-8")
    rows = [Printed(PUBLISHED[name], **line) for line in csv.DictReader(text.splitlines())]
    return [row for row in rows if data not in _SETS or row.data in ("", _SETS[data])]
