"""Rules on the words of one sign, and when two signs say the same. [ours]

The rules know English. They look for words, so they miss what is said in other words and may stop at an innocent
one: docs/signs.md says how often, measured on a labelled list. `lint` puts them together with the rest of a bank.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from difflib import SequenceMatcher
from functools import lru_cache
from typing import NamedTuple

MAX_WORDS = 15


class Doubt(NamedTuple):
    """What one rule says of one text."""

    rule: str
    severity: str
    message: str
    suggestion: str


def _words(*alternatives: str) -> re.Pattern:
    return re.compile(rf"(?<![\w-])(?:{'|'.join(alternatives)})(?!\w)", re.IGNORECASE)


NEGATION = re.compile(
    r"(?<![\w-])(?:no|not|none|nor|neither|never|without|absent|absence of|lack(?:s|ing)?(?: of)?|free of|clear of|"
    r"devoid of|negative for|ruled? out|excludes?|excluded|cannot)(?!\w)|n['’]t\b|(?<!\w)non-?(?=\w)(?!none)",
    re.IGNORECASE,
)
STRUCTURE = _words(
    r"(?:vessel|vascular|lung|bronch\w+|marking|cup|sulc\w+|gyr\w+|reflex|border|edge|outline|margin|silhouette|angle)s?",
    r"heart|diaphragm|hil\w+|ventricles?|matter|fovea\w*|macula\w*|disc|rim|bone|tissue|layers?|trabecula\w*|cisterns?",
)

NOT_VISIBLE = {
    "a symptom": _words(
        r"fever\w*|febrile|cough\w*|pains?|painful|\w*aches?|dyspn\w+|breathless\w*|(?:short|shortness) of breath",
        r"wheez\w*|nausea|vomit\w*|dizz\w+|fatigue|malaise|weakness|numb(?:ness)?|seizures?|convulsions?|confusion|dementia",
        r"weight loss|(?:night )?sweats?|sweating|chills|palpitations?|syncope|dysphagia|hoarse\w*|h(?:a|)emoptysis",
        r"(?:blurred|double|poor|reduced|lost) (?:vision|sight)|vision loss|visual \w+|floaters|night blindness|sputum",
        r"tender\w*|itch\w*|palpable|hypoxi\w+|cyano\w+|tachy\w+|brady\w+|a?symptom\w*|complain\w*|gait|thirst",
    ),
    "a finding of the bedside": _words(
        r"crackles?|crepitations?|rales|rhonchi|murmurs?|breath sounds?|(?:to |on )?percussion|auscultation|heard|pulse"
    ),
    "history": _words(
        r"history|smok\w+|pack[- ]years?|exposed|exposure|occupation\w*|known|patients?|aged|elderly",
        r"years? old|year-old|long-?standing|poorly controlled|risk factors?|hereditary",
        r"familial|family|mutations?|genetic|trauma|surgery",
        r"diabetes|diabetics?|(?:adult|child|woman|man|women|men|smoker|infant)s?",
    ),
    "a laboratory value": _words(
        r"troponin|(?:nt-pro)?bnp|crp|c-reactive protein|white (?:blood )?cells?|leuko\w+|h(?:a|)emoglobin|glucose",
        r"hba1c|serum|plasma|blood (?:count|test|sugar|pressure|gas)|cultures?|biops\w+|histolog\w+|cytolog\w+",
        r"antibod\w+|pcr|d-dimer|laborator\w+|lab|ecg|ejection fraction|saturation|intra-?ocular pressure|spinal fluid",
        r"\d+ ?(?:mm ?hg|mg|pg|ng|mmol|u|iu)(?:/\w+)?",
    ),
    "treatment": _words(
        r"treat\w*|therap\w+|antibiotics?|diuretics?|steroids?|respon(?:ds?|ded|se)|medication|drugs?|doses?|chemo\w+",
        r"operat\w+|postoperative|transfusion",
    ),
}

WARNINGS = {
    "change-over-time": (
        _words(
            r"since|interval (?:change|increase|decrease|growth)|compared (?:with|to)|prior|previous\w*|earlier",
            r"progress\w*|worse\w*|resolv\w+|stable|unchanged|follow-?up|over (?:days|weeks|months|years|time)|grown",
            r"improv\w+|regress\w+|evolving|recent\w*|serial|newly|(?:yester|to)day|day to day",
        ),
        "tells of change over time, which one image cannot show",
        "describe the image as it is",
    ),
    "hedge": (
        _words(
            r"may|might|could|can (?:be|show|appear|have)|possibl[ey]|probabl[ey]|likely|perhaps|suspected",
            r"questionable|suspicious (?:for|of)|concerning for|suggest\w*|consistent with|compatible with|typical of",
            r"equivocal|sometimes|often|usually|typically|commonly|occasionally|frequently|rarely",
            r"appears? to|seems?|variable",
        ),
        "hedges",
        "say what is seen when the sign is there",
    ),
    "joined": (
        re.compile(
            r"and/or|;|(?<!\w)(?:as well as|along with|together with|plus)(?!\w)|,[^,]*(?:,|\band\b|\bor\b)",
            re.IGNORECASE,
        ),
        "joins several findings",
        "write one sign for each",
    ),
}

VAGUE = _words(
    r"abnormal(?:ity|ities|ly)?|anomal\w+|findings?|opacit\w+|densit\w+|lesions?|changes?|shadows?|appearances?|pathology",
    r"pathological|diseased?|unusual|something|wrong|suspicious|irregularit\w+|features?|signs?|signal|defects?|damage",
    r"atypical|altered|positive|shadowing|blurring|structures?",
)
FILLER = _words(
    r"a|an|the|of|in|on|at|with|and|or|is|are|one|some|any|both|sides?|visible|seen|present|presence|noted|image",
    r"areas?|regions?|zones?|increased|decreased|reduced|shape|tissues?|white|multiple",
    r"radio(?:graphic|logical)|scan|lungs?|heart|chest|brain|retina\w*|eyes?|optic|disc|left|right|fundus|mri|ct|x-?ray",
)

MARKUP = re.compile(
    r"<[^>]*>?|https?:|\{|\}|`|\\|\$\(|\.\./|(?<!\w)/\w+/|"
    r"\b(?:ignore|disregard|forget) (?:all|any|the|previous|prior|above|your)\b|\bsystem prompt\b",
    re.IGNORECASE,
)
MOJIBAKE = re.compile(r"[ÃÂ][\x80-\xbf]|â€|\ufffd")


def doubts(text: str) -> Iterator[Doubt]:
    """What the rules say of the sign of an anomaly, taken alone; normal signs may negate (see `lint`)."""
    yield from encoding(text)
    if found := NEGATION.search(text):
        mild = STRUCTURE.search(text, found.end()) or (found[0].lower() == "absent" and STRUCTURE.search(text))
        why = f"{found[0]!r} negates, and CLIP hardly hears that"
        yield Doubt("negation", "warning" if mild else "error", why, "say what is seen instead, or remove the sign")
    for what, pattern in NOT_VISIBLE.items():
        if found := pattern.search(text):
            why = f"{found[0]!r} is {what}, which no image shows"
            yield Doubt("not-visible", "error", why, "say what is seen, or remove the sign")
            break
    for rule, (pattern, what, suggestion) in WARNINGS.items():
        if found := pattern.search(text):
            yield Doubt(rule, "warning", f"{found[0]!r} {what}", suggestion)
    if not re.search(r"\w", FILLER.sub("", VAGUE.sub("", text))):
        yield Doubt("vague", "warning", "fits almost any image", "add form, edge, density or place")
    if (count := len(text.split())) > MAX_WORDS:
        why = f"has {count} words, more than {MAX_WORDS}"
        yield Doubt("wordy", "warning", why, "keep the one finding that is seen")


def encoding(text: str) -> Iterator[Doubt]:
    """Characters that a sign should not hold, spaces and full stops."""
    strange = sorted({f"U+{ord(c):04X}" for c in text if unicodedata.category(c) in ("Cc", "Cf", "Co", "Cs", "Cn")})
    if strange or MOJIBAKE.search(text):
        why = f"holds {', '.join(strange[:3])}" if strange else "looks decoded with the wrong character set"
        yield Doubt("encoding", "warning", why, "type the text again, saved as UTF-8")
    if found := MARKUP.search(text):
        why = f"holds {found[0][:20]!r}, which is markup, code, an address or an instruction"
        yield Doubt("encoding", "warning", why, "write plain words")
    if text != " ".join(text.split()):
        yield Doubt(
            "spacing", "warning", "has spaces at an end or several in a row", f"write {' '.join(text.split())!r}"
        )
    if text.rstrip().endswith((".", ",", ":")) or (len(text) > 8 and text.isupper()):
        yield Doubt("style", "note", "ends like a sentence or is in capitals", "write a phrase in lower case")


# Do two signs say the same?

_SAME = """
    large enlarged big enlargement | small little tiny | elevated raised high | widened wide broad dilated |
    heart cardiac | silhouette shadow outline | base basal | opacity opacification | haze hazy |
    border margin edge | flattened flattening flat | thickened thick thickening | multiple several many numerous |
    shifted shift shifting displaced deviated | bulging bulge convex | rounded round | blunted blunting blunt |
    dark hyperlucent black | bright white hyperintense | haemorrhage bleed bleeding
"""
_OPPOSITE = """
    left right | large small | upper lower | wide narrow | bright dark | thick thin | multiple single |
    multiple solitary | smooth irregular | smooth shaggy | sharp blurred | hard soft | new old | inner outer |
    above below | anterior posterior | deep superficial | high low | central peripheral | wider narrower |
    unilateral bilateral | one both | medial lateral | regular irregular
"""
_STOP = set("a an the of in on at to with into its by from and is are over within along around".split())


def _stem(word: str) -> str:
    word = unicodedata.normalize("NFKD", word).replace("ae", "e").replace("oe", "e")
    word = re.sub(r"(?:ies|y)$", "i", word)
    return re.sub(r"(?:es|(?<!s)s|e|is)$", "", word) if len(word) > 3 else word


def stems(text: str) -> list[str]:
    """Words without plural endings, accents and the ae or oe of British spelling."""
    return [_stem(word) for word in re.findall(r"[^\W_]+", text.casefold())]


_ALIKE = {_stem(word): _stem(group.split()[0]) for group in _SAME.split("|") for word in group.split()}
_PAIRS = {frozenset(_ALIKE.get(_stem(w), _stem(w)) for w in pair.split()) for pair in _OPPOSITE.split("|")}


@lru_cache(4096)
def _content(text: str) -> frozenset[str]:
    return frozenset(_ALIKE.get(stem, stem) for stem in stems(text) if stem not in _STOP)


def similar(one: str, other: str) -> bool:
    """Whether two signs are the same but for order, number, spelling, a synonym or one small word.

    At least two thirds of the words agree and no words are opposites (left and right, large and small).
    Misspelt words agree by their letters.
    """
    a, b = _content(one), _content(other)
    if not a or not b:
        return _squeeze(one) == _squeeze(other)
    only_a, only_b = a - b, b - a
    if not a & b or 2 * len(a & b) < max(len(a), len(b)) - 1:  # the quick way out of most pairs
        return False
    if any(frozenset((x, y)) in _PAIRS for x in only_a for y in only_b):
        return False
    for x in sorted(only_a):  # a slip of the keyboard
        twin = next((y for y in sorted(only_b) if len(x) > 4 and SequenceMatcher(None, x, y).ratio() >= 0.85), None)
        if twin is not None:
            only_a, only_b = only_a - {x}, only_b - {twin}
    common = len(a) - len(only_a)
    if min(len(a), len(b)) == 1:
        return not only_a and not only_b
    return common / (common + len(only_a) + len(only_b)) >= 2 / 3


def _squeeze(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


# Does a text name a category?

_BROAD = set(
    map(
        _stem,
        "disease lesion finding opacity syndrome disorder abnormality change enlargement degeneration device vessel "
        "shift thickening other lung heart eye brain pigmentosa occlusion defect image tumor tumour condition".split(),
    )
)


def names_category(text: str, category: str) -> str | None:
    """ "whole" where the text holds the category's name, "part" where it holds its main word, else None.

    "Nodule/Mass" is named by either word. A short name in capitals, such as MS, is looked for as written.
    """
    found, part = stems(text), None
    for name in re.split(r"[/;(),]| or | and ", category.replace("_", " ")):
        words = stems(name)
        if not words:
            continue
        if name.strip().isupper() and len(name.strip()) <= 5:
            if re.search(rf"\b{re.escape(name.strip())}\b", text):
                return "whole"
            continue
        if any(found[i : i + len(words)] == words for i in range(len(found))):
            if len(words) == 1 and words[0] in _BROAD:
                continue
            return "whole"
        if len(words) > 1 and words[-1] in found and words[-1] not in _BROAD:
            part = "part"
    return part
