"""Sign banks: the file, its entries, and what is asked of a bank."""

import json

from sdmad_lite.signs.bank import load_bank

from .world import BANK, Case


def file(what, content, message):
    """A case of a bank's file with this content."""

    def prepare(world):
        path = world.write("bank.json", content)
        return lambda: load_bank(path)

    return Case("A sign bank", what, prepare, message)


def entries(what, message, **changes):
    """A case of a bank with some entries changed; a change of None removes the entry."""
    content = {name: entry for name, entry in {**BANK, **changes}.items() if entry is not None}
    return file(what, json.dumps(content), message)


def asked(what, act, message):
    """A case of a question that a good bank cannot answer."""

    def prepare(world):
        bank = load_bank(world.bank())
        return lambda: act(bank)

    return Case("A sign bank", what, prepare, message)


def signs(*more, first=0):
    """The signs of the good bank and some more."""
    return [*BANK["signs"][first:], *more]


def sign(text, *categories, **more):
    """An entry of signs."""
    return {"text": text, "categories": list(categories), **more}


PERSON = BANK["provenance"]
CASES = [
    Case(
        "A sign bank",
        "a name that is no bank",
        lambda world: lambda: load_bank("chest_fantoms"),
        ("chest_fantoms: cannot be read as a sign bank ({reason}); give a JSON file, or one of {banks}"),
    ),
    Case(
        "A sign bank",
        "a folder",
        lambda world: lambda: load_bank(world.path),
        "{path}: cannot be read as a sign bank ({reason}); give a JSON file, or one of {banks}",
    ),
    file(
        "an empty file",
        "",
        (
            "{path}/bank.json: cannot be read as a sign bank (Expecting value: line 1 column 1 (char 0)); "
            "give a JSON file, or one of {banks}"
        ),
    ),
    file(
        "a file that is not UTF-8",
        b'{"name": "\xff"}',
        ("{path}/bank.json: cannot be read as a sign bank ({reason}); give a JSON file, or one of {banks}"),
    ),
    file(
        "a comma too many",
        '{"name": "mine",}',
        (
            "{path}/bank.json: cannot be read as a sign bank (Expecting property name enclosed in double "
            "quotes: line 1 column 17 (char 16)); give a JSON file, or one of {banks}"
        ),
    ),
    file(
        "a key twice",
        '{"name": "mine", "name": "yours"}',
        (
            "{path}/bank.json: cannot be read as a sign bank (the key 'name' stands twice in one object); "
            "give a JSON file, or one of {banks}"
        ),
    ),
    file(
        "nesting without end",
        "[" * 100_000,
        ("{path}/bank.json: cannot be read as a sign bank ({reason}); give a JSON file, or one of {banks}"),
    ),
    file(
        "a file of 6 MB",
        " " * 6_000_000,
        (
            "{path}/bank.json: cannot be read as a sign bank (it has more than 5 MB); give a JSON fil"
            "e, or one of {banks}"
        ),
    ),
    file("a list", "[]", "{path}/bank.json: Input should be a valid dictionary or instance of SignBank"),
    entries(
        "a misspelt key",
        "{path}/bank.json: colour: Extra inputs are not permitted",
        color=None,
        colour=False,
    ),
    entries("no modality", "{path}/bank.json: modality: Field required", modality=None),
    entries(
        "no category",
        "{path}/bank.json: categories: Tuple should have at least 1 item after validation, not 0",
        categories=[],
    ),
    entries(
        "a category called normal",
        (
            "{path}/bank.json: category 'Normal' cannot be used; name each anomaly once, and not the normal "
            "(it has normal_signs); category 'Normal' has no sign; write 3 to 7 signs"
        ),
        categories=["Effusion", "Nodule", "Normal"],
    ),
    entries(
        "a category twice",
        (
            "{path}/bank.json: category 'effusion' is listed twice; name each anomaly once, and not the "
            "normal (it has normal_signs); category 'effusion' has no sign; write 3 to 7 signs"
        ),
        categories=["Effusion", "Nodule", "effusion"],
    ),
    entries(
        "a category without a sign",
        ("{path}/bank.json: category 'Hernia' has no sign; write 3 to 7 signs"),
        categories=["Effusion", "Nodule", "Hernia"],
    ),
    entries(
        "no normal sign",
        "{path}/bank.json: normal_signs: Tuple should have at least 1 item after validation, not 0",
        normal_signs=[],
    ),
    entries(
        "a normal sign with a category",
        (
            "{path}/bank.json: normal sign 1 'clear lungs' is a normal sign and names categories; "
            "correct it or remove it"
        ),
        normal_signs=[sign("clear lungs", "Nodule")],
    ),
    entries(
        "an empty sign",
        "{path}/bank.json: sign 5 '' is empty; correct it or remove it",
        signs=signs(sign(" ", "Nodule")),
    ),
    entries(
        "a control character in a sign",
        "{path}/bank.json: sign 5: text: holds the unseen character U+0007, which no sign needs; type it again",
        signs=signs(sign("a\a spot", "Nodule")),
    ),
    entries(
        "a sign twice",
        (
            "{path}/bank.json: sign 5 'Small dense spot' is sign 4 'small dense spot' again; keep one, with "
            "all its categories"
        ),
        signs=signs(sign("Small dense spot", "Effusion")),
    ),
    entries(
        "a sign's id twice",
        "{path}/bank.json: sign 6 'b' has the id 'x' of another sign; correct it or remove it",
        signs=signs(sign("a", "Nodule", id="x"), sign("b", "Nodule", id="x")),
    ),
    entries(
        "a sign of an unknown category",
        (
            "{path}/bank.json: sign 5 'a spot' names the unknown category 'Nodul' (known are Effusion, Nodule); "
            "correct it, or remove the sign"
        ),
        signs=signs(sign("a spot", "Nodul")),
    ),
    entries(
        "a sign without a category",
        "{path}/bank.json: sign 5 'a spot' names no category; correct it, or remove the sign",
        signs=signs(sign("a spot")),
    ),
    entries(
        "a number for a text",
        "{path}/bank.json: sign 5: text: Input should be a valid string",
        signs=signs(sign(7, "Nodule")),
    ),
    entries(
        "an author of no known kind",
        ("{path}/bank.json: provenance.kind: Input should be 'person', 'language model' or 'generator'"),
        provenance={**PERSON, "kind": "robot"},
    ),
    entries(
        "a date that is none",
        ("{path}/bank.json: provenance.date: Input should be a valid date or datetime, input is too short"),
        provenance={**PERSON, "date": "31.1.2025"},
    ),
    asked(
        "signs of an unknown category",
        lambda bank: bank.signs_of("Hernia"),
        "unknown category 'Hernia': use one of Effusion, Nodule",
    ),
    asked(
        "a restriction to an unknown category",
        lambda bank: bank.restricted(["Effusion", "Hernia"]),
        "unknown category 'Hernia': use one of Effusion, Nodule",
    ),
]
