"""Languages are told where that is certain, and only then."""

from __future__ import annotations

import warnings

import pytest

from preread.core.errors import UnknownLanguage
from preread.data.language import KNOWN, language, warn_of_language
from preread.demo import BOOK
from preread.models.packaged import PACKAGED
from preread.retrieval.embedder import DEFAULT

SENTENCES = {
    "en": "The keeper of the lighthouse wrote down every ship that passed, and the weather of the day.",
    "de": "Der Wärter des Leuchtturms schrieb jedes Schiff auf, das vorbeifuhr, und das Wetter des Tages.",
    "fr": "Le gardien du phare notait chaque navire qui passait, ainsi que le temps qu'il faisait ce jour-là.",
    "es": "El guardián del faro apuntaba cada barco que pasaba y también el tiempo que hacía aquel día.",
    "pl": "Latarnik zapisywał każdy statek, który przepływał, a także pogodę tego dnia.",
    "tr": "Fener bekçisi geçen her gemiyi ve o günün havasını deftere yazardı.",
    "ru": "Смотритель маяка записывал каждый проходящий корабль и погоду того дня.",
    "ja": "灯台守は、通り過ぎるすべての船とその日の天気を書き留めた。",
    "zh": "灯塔看守人记下了每一艘经过的船只，以及当天的天气情况。",
    "ar": "كان حارس المنارة يدوّن كل سفينة تمر، ويكتب أيضًا حالة الطقس في ذلك اليوم.",
    "el": "Ο φαροφύλακας κατέγραφε κάθε πλοίο που περνούσε, καθώς και τον καιρό της ημέρας.",
}
CODE = "for (int i = 0; i < n; ++i) { total[i] += w[i] * x[i]; }\n" * 40
TABLE = "\n".join(f"{i} | {i * 37 % 101}.{i % 10} | {i * 7} | {i}%" for i in range(200))


@pytest.mark.parametrize("code", SENTENCES)
def test_a_sentence_is_told_and_so_is_a_long_text_of_it(code):
    assert language(SENTENCES[code]) == code
    assert language(f"{SENTENCES[code]}\n" * 300) == code


@pytest.mark.parametrize("text", ["", "Wer?", "Angela Merkel", "2024-11-22", CODE, TABLE, "ergo sum", "👍 👍 👍"])
def test_what_is_short_or_no_prose_is_in_no_language(text):
    assert language(text) in (None, "en")


def test_one_page_of_another_language_does_not_decide_a_book():
    book = BOOK.read_text(encoding="utf-8")
    assert language(book) == "en"
    assert language(f"{SENTENCES['de']}\n" * 20 + book) == "en"


def test_halves_in_two_languages_are_in_neither():
    assert language(f"{SENTENCES['en']}\n" * 100 + f"{SENTENCES['de']}\n" * 100) is None


def test_only_models_whose_languages_are_known_warn(monkeypatch):
    monkeypatch.setitem(KNOWN, "one-of-ours", frozenset({"en"}))
    for model in ("owner/other", "tiny-llama"):
        warn_of_language(SENTENCES["de"], "the text", [model])
    with pytest.warns(UnknownLanguage, match="the text seems to be in 'de'; one-of-ours knows 'en' only"):
        warn_of_language(SENTENCES["de"], "the text", ["owner/other", "one-of-ours"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_language(SENTENCES["en"], "the text", ["one-of-ours"])


def test_the_table_names_the_packaged_models():
    assert set(KNOWN) == {PACKAGED["default"].name, DEFAULT}


def test_adding_and_asking_warn(collection, tmp_path, monkeypatch):
    monkeypatch.setitem(KNOWN, collection.decoder.name, frozenset({"en"}))
    german = tmp_path / "turm.txt"
    german.write_text(f"{SENTENCES['de']}\n" * 5, encoding="utf-8")
    with pytest.warns(UnknownLanguage, match=r"turm\.txt seems to be in 'de'"):
        collection.add(german)
    with pytest.warns(UnknownLanguage, match="the question seems to be in 'de'"):
        collection.ask("Wie lange vorher muss die Kündigung ausgesprochen werden?")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        collection.ask("How long before must notice be given in writing?")
