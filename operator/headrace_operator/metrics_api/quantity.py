"""Numbers in the notation of Kubernetes quantities."""

from __future__ import annotations

import math


def format_quantity(value: float) -> str:
    """Whole numbers plainly, others in thousandths: 3 is `3`, 2.5 is `2500m`.

    Raises
    ------
    ValueError
        For what is no finite number: no quantity can say it.
    """
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    thousandths = round(value * 1000)
    whole, rest = divmod(thousandths, 1000)
    return f"{thousandths}m" if rest else str(whole)
