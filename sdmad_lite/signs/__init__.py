"""What to look for: sign banks, their linter, and banks written by a language model.

`bank` is the schema of a bank, what the method reads of it and what holds it together; `lint` says what is doubtful in
one (words and rules are data, in lint.toml); `generate` asks a language model for one (the questions stand in
prompts.toml) over `chat`, which alone needs the package openai and is loaded when it is used.
"""

from .bank import RULES as RULES
from .bank import Finding as Finding
from .bank import Provenance as Provenance
from .bank import Sign as Sign
from .bank import SignBank as SignBank
from .bank import load_bank as load_bank
from .bank import parse_bank as parse_bank
from .bank import shipped_banks as shipped_banks
from .generate import Settings as Settings
from .generate import generate_signs as generate_signs
from .generate import sign_prompt as sign_prompt
from .generate import usable_signs as usable_signs
from .lint import check_bank as check_bank
