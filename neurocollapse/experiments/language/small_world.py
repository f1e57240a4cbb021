"""A text from a small world of beings, what each does, and to whom: sentences that follow from what came before."""

from dataclasses import dataclass

import numpy as np

CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
ARTICLE, STOP = "the", "."
CHANCES = (0.6, 0.3, 0.1)
"""How often a being does the first, second and third of the things that it does."""
GOES_ON = 0.7
"""How often a sentence is about the being that the last one ended with."""


@dataclass(frozen=True, eq=False)
class Text:
    """A text as numbers.

    Attributes
    ----------
    words : tuple of str
        The vocabulary; a word's place is its number.
    tokens : int64 array of shape (tokens,)
    """

    words: tuple[str, ...]
    tokens: np.ndarray

    def __str__(self) -> str:
        return " ".join(self.words[token] for token in self.tokens)


def small_world(num_beings: int, num_deeds: int, num_sentences: int, *, seed: int, world: int = 0) -> Text:
    """Draw a text of sentences such as "the kolu tagi the rume .", one after the other.

    Every being can do three things, each to one other being; each sentence draws one of the three. The next sentence is
    in seven of ten cases about the being to whom it was done, and otherwise about one that is drawn with a chance in
    inverse proportion to its rank, as words of natural languages are. Most words can thus be guessed from those before
    them, some from words at a distance, and only a few are certain.

    Parameters
    ----------
    num_beings, num_deeds : int
        Nouns and verbs of the language, beside "the" and ".".
    num_sentences : int
        Number of sentences, of six words each, the full stop included.
    seed : int
        Seed of the text.
    world : int, default 0
        Seed of who does what to whom, which two texts of one world share.

    Examples
    --------
    >>> text = small_world(20, 30, 2, seed=0)
    >>> len(text.words), len(str(text).split())
    (52, 12)
    """
    rules, generator = np.random.default_rng((world, num_beings, num_deeds)), np.random.default_rng((seed, world))
    deeds = rules.integers(num_deeds, size=(num_beings, len(CHANCES)))
    others = rules.integers(1, num_beings, size=(num_beings, len(CHANCES)))
    chances = 1 / np.arange(1, num_beings + 1)
    drawn = generator.choice(num_beings, size=num_sentences, p=chances / chances.sum())
    choices = generator.choice(len(CHANCES), size=num_sentences, p=CHANCES)
    goes_on = generator.random(num_sentences) < GOES_ON
    first_being, first_deed = 2, 2 + num_beings
    tokens = np.zeros((num_sentences, 6), np.int64)  # where nothing else is put, the article
    tokens[:, 5] = 1
    being = int(drawn[0])
    for sentence, choice in enumerate(choices):
        who = being if goes_on[sentence] else int(drawn[sentence])
        being = int(who + others[who, choice]) % num_beings  # never itself
        tokens[sentence, [1, 2, 4]] = first_being + who, first_deed + deeds[who, choice], first_being + being
    return Text(_vocabulary(num_beings + num_deeds), tokens.ravel())


def _vocabulary(number: int) -> tuple[str, ...]:
    """ "the", ".", and so many words of two syllables, or as many more as they need to be different."""
    syllables = [consonant + vowel for vowel in VOWELS for consonant in CONSONANTS]
    words: list[str] = []
    step = 0
    while len(words) < number:
        word, rest = "", step
        while len(word) < 4 or rest:
            rest, place = divmod(rest, len(syllables))
            word += syllables[(place * 11 + len(word) * 17) % len(syllables)]
        words.append(word)
        step += 1
    return (ARTICLE, STOP, *words)
