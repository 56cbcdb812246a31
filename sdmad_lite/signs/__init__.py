"""What to look for: sign banks and their linter.

`bank` is the schema of a bank, what the method reads of it and what holds it together; `lint` says what is doubtful in
one (words and rules are data, in lint.toml). The companion `sdmad_llm` asks a language model for one.
"""

from .bank import Provenance, Sign, SignBank, load_bank, parse_bank, shipped_banks
from .lint import check_bank
from .rules import RULES, Finding

__all__ = ["RULES", "Finding", "Provenance", "Sign", "SignBank", "check_bank", "load_bank", "parse_bank"]
__all__ += ["shipped_banks"]
