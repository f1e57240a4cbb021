"""Sentence pairs of graded similarity from a small grammar: enough to pretrain and adapt a small BERT offline."""

from dataclasses import dataclass

import numpy as np

PARTS = {
    "who": "man/guy woman/lady boy/lad girl/lass doctor/physician cook/chef teacher/tutor lawyer/solicitor",
    "does": "buying/purchasing carrying/hauling cleaning/washing hiding/concealing mending/repairing throwing/tossing "
    "showing/displaying sketching/drawing",
    "what": "cup/mug coat/jacket stone/rock gift/present picture/image lamp/light bag/sack toy/plaything",
    "where": "house/home garden/yard street/road shop/store forest/wood station/depot",
}
"""Every part of a sentence and the concepts it may name, each by either of two words."""
WEIGHTS = (0.3, 0.3, 0.25, 0.15)
"""How much each part counts for the similarity of two sentences; together 1."""
LARGEST_SCORE = 5.0
TEMPLATES = ("a {who} is {does} the {what} {near} the {where}", "{near} the {where} a {who} is {does} the {what}")
PREPOSITIONS = ("in", "near")

CONCEPTS = tuple(tuple(tuple(concept.split("/")) for concept in words.split()) for words in PARTS.values())
CONCEPT_OF = {
    word: (part, index) for part, all_of in enumerate(CONCEPTS) for index, c in enumerate(all_of) for word in c
}


@dataclass(frozen=True, eq=False)
class GradedPairs:
    """Pairs of sentences, and where they agree.

    Attributes
    ----------
    sentences : list of pairs of str
    agreement : bool array of shape (pairs, parts)
        Whether both sentences name the same concept there, by whichever word.
    """

    sentences: list[tuple[str, str]]
    agreement: np.ndarray

    @property
    def scores(self) -> np.ndarray:
        """Similarity in [0, 5]: 5 times the weight of the parts that agree."""
        return LARGEST_SCORE * (self.agreement @ np.array(WEIGHTS))


def graded_pairs(num_pairs: int, seed: int) -> GradedPairs:
    """Draw sentence pairs, from unrelated ones to paraphrases.

    Each pair has its own probability, uniform in [0, 1], that a part of the second sentence repeats that of the first;
    otherwise its concept is drawn again. Words and the order of parts are drawn independently for both sentences.

    Examples
    --------
    >>> pairs = graded_pairs(2, seed=0)
    >>> pairs.sentences[0][0]
    'a teacher is throwing the picture in the garden'
    >>> pairs.scores.round(2)
    array([3.5 , 2.25])
    """
    generator = np.random.default_rng(seed)
    sizes = np.array([len(concepts) for concepts in CONCEPTS])
    first = generator.integers(sizes, size=(num_pairs, len(sizes)))
    drawn = generator.integers(sizes, size=first.shape)
    repeats = generator.random(first.shape) < generator.random((num_pairs, 1))
    second = np.where(repeats, first, drawn)
    sentences = [(_sentence(one, generator), _sentence(two, generator)) for one, two in zip(first, second, strict=True)]
    return GradedPairs(sentences, first == second)


def vocabulary() -> list[str]:
    """Every word of the grammar, in a fixed order."""
    frame = {word for template in TEMPLATES for word in template.split() if "{" not in word}
    return sorted(frame) + list(PREPOSITIONS) + list(CONCEPT_OF)


def _sentence(concepts: np.ndarray, generator: np.random.Generator) -> str:
    """A sentence that names these concepts."""
    words = {
        part: CONCEPTS[position][concept][generator.integers(2)]
        for position, (part, concept) in enumerate(zip(PARTS, concepts, strict=True))
    }
    preposition = PREPOSITIONS[generator.integers(len(PREPOSITIONS))]
    return TEMPLATES[generator.integers(len(TEMPLATES))].format(near=preposition, **words)
