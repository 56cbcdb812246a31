"""What to look for: sign banks, their linter, and banks written by a language model.

`bank` is the schema of a bank, what the method reads of it and what holds it together; `lint` says what is doubtful in
one (words and rules are data, in lint.toml); `generate` asks a language model for one (the questions stand in
prompts.toml) over `chat`, which alone needs the package openai and is loaded when it is used.
"""

from .bank import Provenance, Sign, SignBank, load_bank, parse_bank, shipped_banks
from .generate import generate_signs, sign_prompt, usable_signs
from .lint import check_bank
from .rules import RULES, Finding

__all__ = ["RULES", "Finding", "Provenance", "Sign", "SignBank", "check_bank", "generate_signs", "load_bank"]
__all__ += ["parse_bank", "shipped_banks", "sign_prompt", "usable_signs"]
