"""Answers as networks give them: right ones, nearly right ones, and none at all."""

import random

from visor_jax.evals.tables.question import Question

COUNT = 20
_LETTER_FORMS = (
    *("{}", "({})", "{}.", "{}:", "{})", "{},", "{}!", "**{}**", "'{}'", '"{}"'),
    *(" {} ", "\n{}", "{}. that one", "{} that one", "{}: that", "({}) that"),
    *("The answer is {}.", "Answer: {}", "the correct answer is ({})", "I choose {}"),
    *("It is {} I think", "Option {} or so it seems to me", "答案是{}", "정답은 {}"),
    *(":{}", ":{}.", ":{},", "({}).", "{}).", "[{}]", "x{}", "{}x"),
)
_OTHERS = (
    *("", " ", "40", ".", 40 * ".", 40 * ". a", "No", "yes", "Yes.", "no, not there"),
    *("Yes, there is", "NO", "not sure", "know", "Unknown", "y", "N", "nope.", "noyes"),
    *("Because", "None", "none", "nan", "inf", "-inf", "1e2", "100", "95", "94.9"),
    *("105", "105.0", "0.0", "0", "-0", "0.3", "30%", "30", ".3", "0.285", "0.315"),
    *("14.805", "13.395"),
    *("2021", "2020.", "1,000", "1000", "1, 000", "1,200", "$1,200", "$ 1,200"),
    *("-95", "-100.", "+5", "12.", "The answer is 12.", "112", "x = 12", "so 12"),
    *("The result is blue whale", "is 3.456", "thus x", "therefore 1,200 dollars", "x"),
    *("It's", "its", "it 's", "dont", "don't", "two", "2", "Two.", "2.0", "the two"),
    *(
        "ten-fold",
        "ten fold",
        "red/blue",
        "red blue",
        "The red, blue.",
        "U.S.A.",
        "usa",
    ),
    *("mothers", "mother's", "the cat!", "a", "an", "the", "A", "won't", "wont"),
    *("STRASSE ẞ 5", "straße ß 5", "strasse", "ﬁne ab", "fine ＡＢ", "İstanbul"),
    *("istanbul", "i̇stanbul", "ISTANBUL", "café", "cafe", "CAFÉ", "T-shirt", "tshirt"),
    *(
        "t shirt",
        "T shirt.",
        "ＳＴＯＰ　it",
        "stop it",
        "STOP now!",
        "stop\nnow",
        "x^2",
    ),
    *("x ^ 2", "X^2", "ｘ_1 + y", "x_1+y", "é", "É", "1", "ok", "Éa", "éa"),
    *("2.", "Downhill", "downhill.", "down", "1e400", "１２", "٣", "1_000", "²"),
    *("A or B", "(A) or (C)", "Both A and C", "E", "Either E or F", "A B", "D, E", "H"),
    *("The correct answer is (C), not (A).", "A dog is at B", "A man with B in hand"),
    *("The answer is (C) since (A) fails", "A\nB", "C. D. E. F.", "B F", "G) then B"),
    *("a\tb\nc", "日本", "\u00a0yes\u00a0", "\u3000B", "yes\u200b", "\x0b", "\u2028B"),
)


def answers(question: Question, number: int) -> list[str]:
    """Returns `COUNT` answers to a question, the same in every run."""
    rng = random.Random(number)
    letters = "ABCDEFGH"[: len(question.choices) or 4]
    found = [rng.choice(_LETTER_FORMS).format(rng.choice(letters)) for _ in range(5)]
    for reference in rng.choices(question.references, k=3):
        found += [reference, _near(reference, rng), f"It is {reference}, I think."]
    for choice in rng.choices(question.choices, k=1) if question.choices else ():
        found += [choice.upper(), f"{choice}.", f"perhaps it is {choice} or so I guess"]
    found += rng.sample(_OTHERS, COUNT - len(found))
    return found


def _near(text: str, rng: random.Random) -> str:
    place = rng.randrange(len(text) + 1)
    return rng.choice(
        (
            text[:place] + text[place + 1 :],
            text[:place] + "q" + text[place:],
            text.upper(),
            text.swapcase(),
            f"{text}.",
            f" {text}\n",
            f"the {text}",
            text.replace(" ", "  "),
        )
    )
