"""Sign banks: what loads, the order of every matrix, and what each mistake is answered with."""

import json
import re
from copy import deepcopy

import numpy as np
import pytest

from sdmad_lite.errors import BankError, OutputError
from sdmad_lite.signs import load_bank, parse_bank, shipped_banks

TINY = {
    "name": "tiny",
    "modality": "chest radiograph",
    "categories": ["Effusion", "Edema", "Mass"],
    "signs": [
        {"id": "meniscus", "text": "meniscus at the base", "categories": ["Effusion"]},
        {"id": "blunted", "text": "blunted angle", "categories": ["Effusion", "Edema"]},
        {"id": "batwing", "text": "bat-wing haze", "categories": ["Edema"]},
        {"id": "round", "text": "large round opacity", "categories": ["Mass"]},
    ],
    "normal_signs": [{"id": "clear", "text": "clear lungs"}, {"text": "sharp angles"}],
    "provenance": {"author": "a person", "kind": "person", "date": "2026-11-22", "reviewed": False},
}


@pytest.fixture
def tiny():
    return parse_bank(TINY)


# What ships


@pytest.mark.parametrize(
    ("name", "at_least"), [(f"{name}_phantoms", 1) for name in ("chest", "brain", "fundus")] + [("nih_chest14", 2)]
)
def test_shipped_bank_loads_and_every_category_has_signs_of_its_own(name, at_least):
    assert name in shipped_banks()
    bank = load_bank(name)
    member = bank.membership()
    own = member[1:, member.sum(0) == 1].sum(1)
    assert bank.name == name
    assert [c for c, count in zip(bank.categories, own, strict=True) if count < at_least] == []
    assert (member.sum(0) >= 1).all() and member[0].sum() == len(bank.normal_signs)


def test_nih_bank_names_the_columns_of_the_data_set_and_says_what_is_visible():
    bank = load_bank("nih_chest14")
    assert " ".join(bank.categories) == (
        "Atelectasis Cardiomegaly Consolidation Edema Effusion Emphysema Fibrosis Hernia Infiltration Mass Nodule "
        "Pleural_Thickening Pneumonia Pneumothorax"
    )
    assert all(4 <= len(bank.signs_of(category)) <= 7 for category in bank.categories)
    names = "|".join(category.replace("_", " ") for category in bank.categories)
    for text in bank.texts:
        assert len(text.split()) <= 12
        assert not re.search(rf"\b(no|not|without|absent|{names})\b", text, re.IGNORECASE), text


# What a bank gives


def test_membership_has_the_normal_row_first_and_the_normal_signs_last(tiny):
    assert tiny.texts == [
        "meniscus at the base",
        "blunted angle",
        "bat-wing haze",
        "large round opacity",
        "clear lungs",
        "sharp angles",
    ]
    by_hand = [
        [0, 0, 0, 0, 1, 1],  # normal
        [1, 1, 0, 0, 0, 0],  # Effusion
        [0, 1, 1, 0, 0, 0],  # Edema shares the blunted angle
        [0, 0, 0, 1, 0, 0],  # Mass
    ]
    np.testing.assert_array_equal(tiny.membership(), by_hand)


def test_signs_of_a_category_and_of_normal(tiny):
    assert tiny.signs_of("Edema") == ["blunted angle", "bat-wing haze"]
    assert tiny.signs_of("normal") == ["clear lungs", "sharp angles"]
    with pytest.raises(BankError, match=r"unknown category 'Hernia'.*Effusion, Edema, Mass"):
        tiny.signs_of("Hernia")


def test_restricted_drops_the_other_categories_and_takes_the_order_asked_for(tiny):
    small = tiny.restricted(["Mass", "Edema"])
    assert small.categories == ("Mass", "Edema")
    assert small.texts == ["blunted angle", "bat-wing haze", "large round opacity", "clear lungs", "sharp angles"]
    by_hand = [
        [0, 0, 0, 1, 1],
        [0, 0, 1, 0, 0],
        [1, 1, 0, 0, 0],  # the shared sign stays, for Edema alone
    ]
    np.testing.assert_array_equal(small.membership(), by_hand)
    assert tiny == parse_bank(TINY)  # the bank itself is as before


@pytest.mark.parametrize(
    ("categories", "named"),
    [(["Hernia"], "'Hernia'"), ([], "categories: .*at least 1 item"), (["Mass", "Mass"], "'Mass'")],
)
def test_restricted_refuses_what_the_bank_cannot_give(tiny, categories, named):
    with pytest.raises(BankError, match=named):
        tiny.restricted(categories)


def test_save_and_load_give_the_same_bank(tiny, tmp_path):
    path = tiny.save(tmp_path / "new" / "folder" / "bank.json")
    assert load_bank(path) == load_bank(str(path)) == tiny
    assert [p.name for p in path.parent.iterdir()] == ["bank.json"]
    tiny.restricted(["Mass"]).save(path)  # a second save replaces the first
    assert load_bank(path).categories == ("Mass",)


def test_signs_need_not_be_english(tmp_path):
    texts = ["épanchement", "胸水", "胸膜线"]
    signs = [{"text": text, "categories": [c]} for text, c in zip(texts, TINY["categories"], strict=True)]
    bank = parse_bank({**TINY, "signs": signs})
    assert load_bank(bank.save(tmp_path / "bank.json")).texts[:3] == texts


# What a mistake is answered with


def _set(*place, to):
    def change(bank):
        for part in place[:-1]:
            bank = bank[part]
        bank[place[-1]] = to

    return change


def _drop(*place):
    def change(bank):
        for part in place[:-1]:
            bank = bank[part]
        del bank[place[-1]]

    return change


def _add_sign(text, *categories):
    return lambda bank: bank["signs"].append({"text": text, "categories": list(categories)})


BAD = {  # beside those of tests/bad_inputs/banks.py
    "sign of blanks": (_set("signs", 2, "text", to=" \t"), "sign 3 '' is empty"),
    "sign of punctuation": (_set("normal_signs", 1, "text", to="..."), "normal sign 2 '...' is empty"),
    "same but for case": (_add_sign("Blunted ANGLE", "Mass"), "sign 5 'Blunted ANGLE' is sign 2 .* again"),
    "same but for spacing": (_add_sign(" blunted   angle", "Mass"), "'blunted   angle' is sign 2 .* again"),
    "same but for a hyphen": (_add_sign("blunted-angle", "Mass"), "'blunted-angle' is sign 2 .* again"),
    "sign also normal": (_add_sign("Clear lungs", "Mass"), "normal sign 1 'clear lungs' is sign 5 'Clear lungs' again"),
    "category spelt in another case": (_set("signs", 0, "categories", to=["effusion"]), "category 'effusion'"),
    "category twice": (lambda bank: bank["categories"].append("mass"), "category 'mass' is listed twice"),
    "category of blanks": (lambda bank: bank["categories"].append(" "), "category '' cannot be used"),
    "missing field inside": (_drop("provenance", "reviewed"), "provenance.reviewed: Field required"),
    "unknown field of a sign": (_set("signs", 1, "category", to="Edema"), "sign 2: category: .*not permitted"),
    "impossible date": (_set("provenance", "date", to="2026-02-30"), "provenance.date: .*date"),
    "no number": (_set("provenance", "generation", to={"seed": float("nan")}), "finite number"),
    "sign without end": (_set("signs", 0, "text", to="bright " * 200), "sign 1: text: .*at most 1000 characters"),
    "signs no list": (_set("signs", to="blunted angle"), "signs: "),
    "NUL in a name": (_set("name", to="ti\0ny"), r"name: holds the unseen character U\+0000"),
    "escape in a category": (_set("categories", 2, to="Ma\x1bss"), r"categories.2: holds the unseen character U\+001B"),
    "mark of direction": (_set("signs", 1, "text", to="left \u202eright"), r"sign 2: text: holds .* U\+202E"),
}


@pytest.mark.parametrize(("change", "named"), BAD.values(), ids=BAD.keys())
def test_bad_bank_is_refused_by_name(tmp_path, change, named):
    bank = deepcopy(TINY)
    change(bank)
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(bank), encoding="utf-8")
    with pytest.raises(BankError, match=rf"mine\.json: .*{named}"):
        load_bank(path)


def test_all_mistakes_in_the_fields_are_named_at_once():
    bank = deepcopy(TINY)
    bank["signs"][0]["text"] = 5
    del bank["modality"]
    with pytest.raises(BankError, match=r"modality: .*; sign 1: text: "):
        parse_bank(bank)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"{'name': 'tiny'}", "cannot be read"),
        (b'{"name": "tiny"', "cannot be read"),
        (b"\x00\x01\x02", "cannot be read"),
        (b'{"name": ' + b"9" * 9999 + b"}", r"cannot be read .*4300 digits"),
        (b'{"name": "a"\n "modality": "b"}', "cannot be read .*Expecting ',' delimiter: line 2 column 2"),
        (b"3", ".*dictionary"),
        (b"null", ".*dictionary"),
    ],
)
def test_a_file_that_is_no_bank_is_named(tmp_path, content, named):
    path = tmp_path / "mine.json"
    path.write_bytes(content)
    with pytest.raises(BankError, match=rf"mine\.json: {named}"):
        load_bank(path)


def test_a_byte_order_mark_is_no_mistake(tiny, tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps(TINY), encoding="utf-8-sig")
    assert load_bank(tmp_path / "mine.json") == tiny


def test_what_a_sign_accepts_and_how_a_model_was_asked_are_kept(tiny, tmp_path):
    how = {"server": "localhost:1", "answer_form": "text", "requests": 3, "software": "sdmad_lite"}
    bank = deepcopy(TINY)
    bank["signs"][0]["accept"] = {"negation": "it is bare"}
    bank["provenance"]["generation"] = how
    again = load_bank(parse_bank(bank).save(tmp_path / "bank.json"))
    assert again.signs[0].accept == {"negation": "it is bare"} and again.provenance.generation["requests"] == 3
    assert again.restricted(["Effusion"]).signs[0].accept == {"negation": "it is bare"}
    assert "accept" not in tiny.save(tmp_path / "plain.json").read_text()


def test_a_missing_file_is_named_and_the_shipped_banks_are_listed(tmp_path):
    for name in ("no_such_bank", tmp_path / "no_such_bank.json", "a\0b", "x" * 5000):
        with pytest.raises(BankError, match=f"{re.escape(str(name))}: .*{', '.join(shipped_banks())}"):
            load_bank(name)


def test_save_below_a_file_or_over_a_folder_raises_and_leaves_nothing(tiny, tmp_path):
    (tmp_path / "taken").write_text("mine")
    (tmp_path / "folder").mkdir()
    for place in (tmp_path / "taken" / "bank.json", tmp_path / "folder"):
        with pytest.raises(OutputError, match=f"{place.name}: (?:cannot be written|is a folder)"):
            tiny.save(place)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["folder", "taken"]
    assert (tmp_path / "taken").read_text() == "mine"
