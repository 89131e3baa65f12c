"""How answers of VQA are made comparable before annotators are counted.

The processing of the VQA evaluation (Antol et al. 2015) as lmms-eval runs it, slips
included: full stops go by a call that takes a flag for a count, so that only the first
32 of them do, and contractions are looked up in lower case, so that those of "I" are
never found.

    "The Cat."          cat           "red/blue"    red blue
    "1,000 dollars!"    1000 dollars  "2.5"         2.5
    "ten-fold"          10 fold       "A"           (nothing)
"""

import re

_NUMBERS = "zero one two three four five six seven eight nine ten"
_DIGITS = {word: str(n) for n, word in enumerate(_NUMBERS.split())} | {"none": "0"}
_ARTICLES = ("a", "an", "the")
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,+\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
_STOPS_REMOVED = 32

# The official list, which has 120 spellings. One apostrophe: it is left out.
_ONE_APOSTROPHE = """
ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd
he's how'd how'll how's I'm I've isn't it'd it'll ma'am mightn't might've mustn't
must've needn't not've o'clock oughtn't shan't should've shouldn't somebody'll
somebody's someone'd someone'll someone's something'd something'll that's there'd
there're there's they'd they'll they're they've 'twas wasn't we've weren't what'll
what're what's what've when's where'd where's where've who'd who'll who's who've why'll
why're why's won't would've wouldn't y'all you'd you'll you're you've
"""
# Two: either is.
_TWO_APOSTROPHES = """
couldn't've hadn't've he'd've I'd've it'd've mightn't've she'd've shouldn't've
somebody'd've someone'd've something'd've there'd've they'd've we'd've who'd've
wouldn't've y'all'll you'd've
"""
_OTHERS = {
    **dict.fromkeys(("ow's'at", "'ows'at", "'ow'sat"), "'ow's'at"),
    **dict.fromkeys(("yall'd've", "y'alld've", "y'all'dve"), "y'all'd've"),
    "somebody'd": "somebodyd",
}


def _contractions() -> dict[str, str]:
    """Returns {spelling: with its apostrophes}."""
    found = {word.replace("'", ""): word for word in _ONE_APOSTROPHE.split()}
    for word in _TWO_APOSTROPHES.split():
        head, middle, tail = word.split("'")
        found[f"{head}{middle}'{tail}"] = word
        found[f"{head}'{middle}{tail}"] = word
    return found | _OTHERS


_CONTRACTIONS = _contractions()


def processed(text: str, *, parts_possessives: bool) -> str:
    """Returns the text as answers are compared: words with single blanks.

    parts_possessives: as for TextVQA and VizWiz, where commas and question marks go
      first and "it's" becomes two words; not so for VQAv2.
    """
    if parts_possessives:
        text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return in_plain_words(without_punctuation(one_line(text.strip())))


def one_line(text: str) -> str:
    """Returns the text without line breaks and tabs, and blanks at its ends."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def without_punctuation(text: str) -> str:
    """Returns the text with each sign of punctuation deleted or made a blank.

    A sign is deleted if it stands beside a blank anywhere in the text, or if there is a
    comma between digits.
    """
    found = text
    for sign in _PUNCTUATION:
        beside_blank = f"{sign} " in text or f" {sign}" in text
        deleted = beside_blank or _COMMA_IN_NUMBER.search(text) is not None
        found = found.replace(sign, "" if deleted else " ")
    return _FULL_STOP.sub("", found, count=_STOPS_REMOVED)


def in_plain_words(text: str) -> str:
    """Returns the lower-cased words: digits for numbers to ten, no articles."""
    words = (_DIGITS.get(word, word) for word in text.lower().split())
    kept = (word for word in words if word not in _ARTICLES)
    return " ".join(_CONTRACTIONS.get(word, word) for word in kept)
