"""The tables and wordings of the lookup family.

The test split has its own introductions, questions and tables, of things that training never mentions.
Slots of a wording: `{name}` and `{name2}` name a row, `{group}`/`{value}` a text column and one of its
values, `{number}` and `{other}` number columns, `{limit}` a number, `{noun}`/`{nouns}` what the rows are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Domain:
    """One sort of table. The key column holds unique names; groups are text columns, numbers integers."""

    noun: str
    nouns: str
    key: str
    names: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]]
    numbers: Mapping[str, tuple[int, int]]

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.key, *self.groups, *self.numbers)


@dataclass(frozen=True, slots=True)
class Wording:
    """One question; `op` names what answers it (lookup.OPERATIONS)."""

    name: str
    level: int
    op: str
    text: str


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _pairs(first: str, second: str) -> tuple[str, ...]:
    """Every first word with every second: names that look alike, which a careless search mixes up."""
    return tuple(f"{a} {b}" for a in first.split() for b in second.split())


_CITIES = _words("Berlin Madrid Paris Rome Vienna Prague Warsaw Dublin")

DOMAINS: Mapping[str, tuple[Domain, ...]] = {
    "train": (
        Domain(
            "product",
            "products",
            "name",
            _pairs("Red Blue Green Black White Small Large Old", "Lamp Chair Desk Mug Clock Bag Vase Rug"),
            {"city": _CITIES, "brand": _words("Acme Nordik Solano Vertex Lumina")},
            {"price": (12, 480), "stock": (3, 950), "weight": (1, 90)},
        ),
        Domain(
            "employee",
            "employees",
            "name",
            _pairs(
                "Anna Ben Carla David Elena Felix Grace Hugo", "Adams Brown Clark Evans Fisher Green Hall"
            ),
            {"department": _words("sales finance research support logistics"), "city": _CITIES},
            {"salary": (2100, 9800), "age": (21, 64), "bonus": (40, 990)},
        ),
        Domain(
            "book",
            "books",
            "title",
            _pairs(
                "Silent Lost Golden Broken Winter Hidden Last Burning",
                "River Garden Tower Letter Island Song",
            ),
            {
                "genre": _words("crime poetry history fantasy travel"),
                "language": _words("English German French Spanish Italian"),
            },
            {"year": (1901, 2023), "rating": (12, 99), "price": (4, 180)},
        ),
        Domain(
            "city",
            "cities",
            "city",
            _pairs("North South East West New Old Upper Lower", "Ashford Milton Bridge Haven Norwood Field"),
            {
                "country": _words("Norland Estia Varonia Belmark Cathay"),
                "climate": _words("dry mild cold wet hot"),
            },
            {"population": (4200, 980000), "area": (12, 870), "altitude": (2, 2140)},
        ),
        Domain(
            "student",
            "students",
            "student",
            _pairs("Ivy Jack Kate Leo Mia Noah Olga Paul", "Ford Gray Hill King Lee Moore Nash"),
            {
                "club": _words("chess drama music robotics swimming"),
                "house": _words("Eagle Falcon Heron Raven Swan"),
            },
            {"score": (12, 499), "height": (121, 198), "rank": (1, 890)},
        ),
        Domain(
            "flight",
            "flights",
            "code",
            tuple(f"{line}{number}" for line in _words("AX BK CN DL") for number in range(114, 914, 53)),
            {"destination": _CITIES, "airline": _words("Aerolux Skyway Windjet Polaris")},
            {"fare": (49, 980), "distance": (160, 4200), "delay": (1, 240)},
        ),
    ),
    "test": (
        Domain(
            "hotel",
            "hotels",
            "hotel",
            _pairs(
                "Grand Royal Sunny Quiet Harbour Garden Park Crystal", "Inn Palace Lodge Resort House Plaza"
            ),
            {
                "region": _words("Tuscany Bavaria Andalusia Provence Algarve"),
                "style": _words("modern rustic classic boutique"),
            },
            {"capacity": (12, 480), "rate": (45, 690), "deposit": (20, 800)},
        ),
        Domain(
            "film",
            "films",
            "film",
            _pairs(
                "Midnight Paper Electric Crimson Frozen Secret Distant",
                "Empire Horizon Mirror Highway Planet Circus",
            ),
            {
                "director": _words("Okafor Lindqvist Moreau Tanaka Petrov"),
                "studio": _words("Redwood Bluebird Ironside Silverline"),
            },
            {"runtime": (74, 210), "budget": (2, 310), "income": (3, 990)},
        ),
        Domain(
            "horse",
            "horses",
            "horse",
            _pairs(
                "Thunder Shadow Amber Silver Storm Velvet Copper", "Dancer Runner Spirit Arrow Prince Star"
            ),
            {
                "breed": _words("Arabian Friesian Haflinger Lusitano"),
                "owner": _words("Amara Bruno Chidi Dilara Esteban"),
            },
            {"speed": (28, 76), "prize": (300, 98000), "stride": (410, 790)},
        ),
        Domain(
            "museum piece",
            "museum pieces",
            "piece",
            tuple(
                f"{kind}-{number}" for kind in _words("VASE COIN MASK SEAL") for number in range(11, 95, 6)
            ),
            {
                "period": _words("archaic roman gothic baroque"),
                "material": _words("bronze marble clay ivory jade"),
            },
            {"depth": (2, 240), "value": (900, 88000), "fee": (11, 350)},
        ),
    ),
}

INTROS: Mapping[str, tuple[str, ...]] = {
    "train": (
        "`table` is a list of dicts with keys {keys}.",
        "The variable `table` is a list of dicts with the keys {keys}.",
        "`table` is a list of {nouns}, each a dict with keys {keys}.",
        "The list `table` holds one dict per {noun} with keys {keys}.",
    ),
    "test": (
        "You are given `table`, a list of dicts whose keys are {keys}.",
        "In `table` there is a dict for each {noun}, and its keys are {keys}.",
    ),
}

WORDINGS: Mapping[str, tuple[Wording, ...]] = {
    "train": (
        # Level 1: one look-up
        Wording("number-what", 1, "number_of", "What is the {number} of {name}?"),
        Wording("number-find", 1, "number_of", "Find the {number} of the {noun} {name}."),
        Wording("number-lookup", 1, "number_of", "Look up {name} and give the {number}."),
        Wording("number-need", 1, "number_of", "I need the {number} for {name}. What is it?"),
        Wording("group-which", 1, "group_of", "Which {group} belongs to {name}?"),
        Wording("group-what", 1, "group_of", "What is the {group} of the {noun} {name}?"),
        Wording("group-listed", 1, "group_of", "What {group} is listed for {name}?"),
        # Level 2: count, sum, extremes
        Wording("count-have", 2, "count_group", 'How many {nouns} have the {group} "{value}"?'),
        Wording("count-there", 2, "count_group", 'How many {nouns} are there with {group} "{value}"?'),
        Wording("above-have", 2, "count_above", "How many {nouns} have a {number} of more than {limit}?"),
        Wording("above-greater", 2, "count_above", "In how many rows is the {number} greater than {limit}?"),
        Wording(
            "sum-total", 2, "sum_group", 'What is the total {number} of all {nouns} with {group} "{value}"?'
        ),
        Wording("sum-add", 2, "sum_group", 'Add up the {number} of the {nouns} whose {group} is "{value}".'),
        Wording(
            "max-highest",
            2,
            "max_group",
            'What is the highest {number} of the {nouns} with {group} "{value}"?',
        ),
        Wording("min-lowest", 2, "min_group", 'What is the lowest {number} where the {group} is "{value}"?'),
        Wording("name-highest", 2, "name_of_max", "Which {noun} has the highest {number}?"),
        Wording("name-lowest", 2, "name_of_min", "Which {noun} has the lowest {number}?"),
        # Level 3: two steps
        Wording(
            "other-highest", 3, "other_of_max", "What is the {other} of the {noun} with the highest {number}?"
        ),
        Wording(
            "group-lowest", 3, "group_of_min", "What is the {group} of the {noun} with the lowest {number}?"
        ),
        Wording(
            "difference-higher",
            3,
            "difference",
            "How much higher is the {number} of {name} than that of {name2}?",
        ),
        Wording(
            "difference-between",
            3,
            "difference",
            "What is the {number} of {name} minus the {number} of {name2}?",
        ),
        Wording(
            "sum-both", 3, "sum_two", "What do the {number} of {name} and the {number} of {name2} add up to?"
        ),
        Wording(
            "name-group-highest",
            3,
            "name_of_group_max",
            'Which {noun} with {group} "{value}" has the highest {number}?',
        ),
        Wording(
            "range-group",
            3,
            "range_group",
            'Take the {nouns} with {group} "{value}". What is the difference between their '
            "highest and lowest "
            "{number}?",
        ),
        Wording("count-higher", 3, "count_higher", "How many {nouns} have a higher {number} than {name}?"),
        Wording("group-commonest", 3, "commonest", "Which {group} occurs most often?"),
    ),
    "test": (
        Wording("number-tell", 1, "number_of", "Tell me the {number} recorded for {name}."),
        Wording("number-entry", 1, "number_of", "The entry for {name} shows what {number}?"),
        Wording("group-stated", 1, "group_of", "State the {group} given for the {noun} called {name}."),
        Wording("group-belongs", 1, "group_of", "{name} is one of the {nouns}. Its {group} is what?"),
        Wording(
            "count-number", 2, "count_group", 'Give the number of {nouns} for which {group} equals "{value}".'
        ),
        Wording(
            "above-over", 2, "count_above", "Count the {nouns} that have over {limit} as their {number}."
        ),
        Wording(
            "sum-combined",
            2,
            "sum_group",
            'Considering only {group} "{value}", compute the combined {number}.',
        ),
        Wording(
            "max-largest",
            2,
            "max_group",
            'Among {nouns} of the {group} "{value}", what is the largest {number}?',
        ),
        Wording(
            "min-smallest", 2, "min_group", 'Give the smallest {number} found for the {group} "{value}".'
        ),
        Wording("name-top", 2, "name_of_max", "Name the {noun} whose {number} is the largest of all."),
        Wording(
            "other-largest",
            3,
            "other_of_max",
            "Take the {noun} with the largest {number}: what {other} does it have?",
        ),
        Wording(
            "group-smallest",
            3,
            "group_of_min",
            "Name the {group} of whichever {noun} has the smallest {number}.",
        ),
        Wording(
            "difference-exceeds",
            3,
            "difference",
            "By how much does the {number} of {name} exceed that of {name2}?",
        ),
        Wording("sum-together", 3, "sum_two", "Together, what {number} do {name} and {name2} have?"),
        Wording(
            "name-group-largest",
            3,
            "name_of_group_max",
            'Within the {group} "{value}", name the {noun} of largest {number}.',
        ),
        Wording(
            "count-beat",
            3,
            "count_higher",
            "Count the {nouns} whose {number} is larger than the one of {name}.",
        ),
    ),
}
