"""Whether training has collapsed: everything in a few buckets, or nothing learned."""

import numpy as np

LEAST_USED = 0.1  # training has collapsed where it uses less than a tenth of the buckets that k-means uses
CHANCE = 0.995  # a loss above this share of ln nlist, its value at chance, has learned nothing

ADVICE = "lower --lr, raise --batch_size, or check the vectors for constant or extreme columns"


def collapse(
    used: dict[str, int], used_by_kmeans: int, losses: dict[str, float], nlist: int, *, warming_up: bool
) -> list[str]:
    """Warnings for one epoch; none where all is well.

    used: buckets in use on the held-out vectors, by router; losses: mean meet, by router
    """
    warnings = []
    for router, loss in losses.items():
        if used[router] < LEAST_USED * used_by_kmeans:
            warnings.append(
                f"warning: {router} puts the held-out vectors into {used[router]} buckets, k-means into "
                f"{used_by_kmeans}: training has collapsed; {ADVICE}"
            )
        elif not warming_up and nlist > 1 and loss > CHANCE * np.log(nlist):
            warnings.append(
                f"warning: the loss of {router} is {loss:.3f}, at chance ({np.log(nlist):.3f}): "
                f"nothing is learned; {ADVICE}"
            )
    return warnings
