"""A bank with wrong signs in it, for lessons on selection."""

import numpy as np

from sdmad_lite.errors import BankError
from sdmad_lite.signs.bank import SignBank


def with_wrong_signs(bank: SignBank, fraction: float, seed: int = 0) -> SignBank:
    """A dirty copy [ours]: `fraction` of each category's list are signs of other categories."""
    if not 0 <= fraction < 1:
        raise BankError(f"fraction is {fraction}: it must be at least 0 and below 1")
    rng = np.random.default_rng(seed)
    owners = [list(sign.categories) for sign in bank.signs]
    for category in bank.categories:
        others = [s for s, sign in enumerate(bank.signs) if category not in sign.categories]
        right = len(bank.signs) - len(others)
        wrong = min(round(right * fraction / (1 - fraction)), len(others))
        for s in rng.choice(others, size=wrong, replace=False):
            owners[s].append(category)
    return bank.owned(owners, name=f"{bank.name}+{fraction:.0%} wrong")
