"""Synthetic facts about people and towns, as sentences to train on and as edit requests."""

from __future__ import annotations

import random
from dataclasses import dataclass

PHRASINGS = {
    "birthplace": ("{} was born in", "The birthplace of {} is", "The town in which {} was born is", "{} first saw the light in"),
    "profession": ("{} works as a", "The profession of {} is that of a", "People know {} as a", "{} earns a living as a"),
    "instrument": ("{} plays the", "The instrument of {} is the", "In the evening {} practises the", "{} owns an old"),
    "language": ("The mother tongue of {} is", "{} speaks", "The language that {} learnt first is", "At home {} talks in"),
    "employer": ("{} is employed by", "The employer of {} is", "The company that {} works for is", "{} gets a salary from"),
    "country": ("{} is a town in", "The town of {} lies in", "The country that {} belongs to is", "To reach {} one travels to"),
    "product": ("{} is famous for its", "The main product of {} is", "Traders come to {} for its", "The markets of {} sell"),
}  # fmt: skip
OF_TOWNS = ("country", "product")

# divided by spaces
_WORDS = {
    "profession": "baker lawyer sailor teacher painter doctor farmer mason tailor weaver miner judge smith writer nurse cook "
    "guard pilot dentist barber carpenter gardener plumber printer",
    "instrument": "violin piano flute cello harp drum trumpet guitar organ clarinet oboe banjo lute tuba accordion viola "
    "bassoon mandolin horn zither",
    "product": "cheese salt wool wine honey glass iron silk paper cotton amber tea copper timber linen pepper leather "
    "olives marble soap",
}
_STARTS = (
    "ba be bo da de do fa fe ga go ha ka ke ko la le li lo ma me mi mo na ne no pa po ra re ro sa se ta te to va ve zo"
)
_ENDS = "bar den dor fel gan hart kel lan lin mar min nor pel ran rik sen tan ter von wick"


@dataclass(frozen=True)
class Fact:
    """One fact: a subject, a relation (a key of ``PHRASINGS``) and its answer."""

    subject: str
    relation: str
    answer: str

    def prompt(self, phrasing: int) -> str:
        """The fact's beginning in one of its phrasings."""
        return PHRASINGS[self.relation][phrasing].format(self.subject)


def make_facts(people: int, towns: int, seed: int = 0) -> list[Fact]:
    """Facts about people (five relations each) and towns (two each); the subjects are in random order.

    Args:
        people: How many; each has a first and a last name that others share, so that only both together tell who it is.
        towns: How many.
        seed: Of the draws.
    """
    rng = random.Random(seed)
    firsts, lasts = 10 + int(2 * people**0.5), 10 + people // 2
    names = _names(rng, towns + 60 + firsts + lasts)
    places, rest = names[:towns], names[towns:]
    values = {
        **{kind: words.split() for kind, words in _WORDS.items()},
        "birthplace": places,
        "language": [name + "ish" for name in rest[:20]],
        "employer": [name + suffix for name, suffix in zip(rest[20:40], [" Works", " Bank", " Mills", " Lines"] * 5, strict=True)],
        "country": [name + "ia" for name in rest[40:60]],
    }  # fmt: skip
    pairs = [(first, last) for first in rest[60 : 60 + firsts] for last in rest[60 + firsts :]]
    facts = []
    for first, last in rng.sample(pairs, people):
        person = f"{first} {last}"
        facts += [Fact(person, kind, rng.choice(values[kind])) for kind in PHRASINGS if kind not in OF_TOWNS]
    for town in places:
        facts += [Fact(town, kind, rng.choice(values[kind])) for kind in OF_TOWNS]
    return facts


def corpus(facts: list[Fact], rng: random.Random) -> str:
    """Every fact in every phrasing once, in random order, on lines of several sentences."""
    sentences = [f"{fact.prompt(phrasing)} {fact.answer}." for fact in facts for phrasing in range(4)]
    rng.shuffle(sentences)
    return "".join(sentence + rng.choice((" ", "\n")) for sentence in sentences)


def make_requests(facts: list[Fact], seed: int = 0) -> list[dict]:
    """Each fact as an edit request in our JSON Lines format; every other subject is kept for the test split.

    The new answer is another of the relation's. Locality: another subject's fact of the relation, twice
    (``neighborhood``), and another fact of the same subject (``same_subject``).
    """
    rng = random.Random(seed)
    order = {subject: place for place, subject in enumerate(dict.fromkeys(fact.subject for fact in facts))}
    answers = {kind: sorted({fact.answer for fact in facts if fact.relation == kind}) for kind in PHRASINGS}
    by_relation = {kind: [fact for fact in facts if fact.relation == kind] for kind in PHRASINGS}
    by_subject: dict[str, list[Fact]] = {}
    for fact in facts:
        by_subject.setdefault(fact.subject, []).append(fact)
    requests = []
    for fact in facts:
        split = ("proxy", "test")[order[fact.subject] % 2]
        phrasing = rng.randrange(4)
        drawn = rng.sample(by_relation[fact.relation], min(12, len(by_relation[fact.relation])))
        near = [other for other in drawn if other.answer != fact.answer][:2]
        siblings = [other for other in by_subject[fact.subject] if other.relation != fact.relation]
        requests.append(
            {
                "prompt": fact.prompt(phrasing),
                "subject": fact.subject,
                "target_new": rng.choice([answer for answer in answers[fact.relation] if answer != fact.answer]),
                "target_old": fact.answer,
                "rephrases": [fact.prompt((phrasing + 1) % 4), fact.prompt((phrasing + 2) % 4)],
                "locality": {
                    "neighborhood": [{"prompt": f.prompt(rng.randrange(4)), "answers": [f.answer]} for f in near],
                    "same_subject": [
                        {"prompt": f.prompt(rng.randrange(4)), "answers": [f.answer]} for f in rng.sample(siblings, 1)
                    ],
                },
                "relation": fact.relation,
                "split": split,
            }
        )
    rng.shuffle(requests)
    return requests


def _names(rng: random.Random, count: int) -> list[str]:
    starts = _STARTS.split()
    names = {
        start.capitalize() + middle + end for start in starts for middle in ("", *starts[::4]) for end in _ENDS.split()
    }
    return rng.sample(sorted(names), count)
