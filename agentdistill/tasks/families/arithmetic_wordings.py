"""The wordings of the arithmetic family. Data, hence longer than other modules.

A wording of the test split shares no sentence, scene, name or thing with those of training. Slots: `{name}`
and `{other}` are people, those in `words` are drawn from their options, those in `numbers` are a range or
follow from the slots before them. Slots named `usd...` are amounts in cents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

Numbers = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Wording:
    """One text and the formula that answers it."""

    name: str
    level: int
    text: str
    numbers: Mapping[str, tuple[int, int] | Callable[[Numbers], int]]
    answer: Callable[[Numbers], int | Fraction]
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


TRAIN_NAMES = (
    *("Anna", "Ben", "Carla", "David", "Elena", "Felix", "Grace", "Hugo", "Irene", "Jonas", "Karim", "Laura"),
    *("Maria", "Nadia", "Oscar", "Paula", "Ravi", "Sofia", "Tom", "Victor", "Wendy", "Yusuf", "Zoe", "Liam"),
)
TEST_NAMES = (
    *("Amara", "Bruno", "Chidi", "Dilara", "Esteban", "Freya", "Goran", "Hana", "Ines", "Jasper", "Keiko"),
    *("Lorenzo", "Mireille", "Nikolai", "Otto", "Priya"),
)

_STATIONERY = ("pencils", "stickers", "markers", "cards", "paper clips", "notebooks")
_FRUIT = ("apples", "oranges", "lemons", "plums", "peaches")
_GOODS = ("lamps", "chairs", "toys", "shoes", "bottles", "helmets", "blankets")

TRAIN: tuple[Wording, ...] = (
    # Level 1: one operation
    Wording(
        "boxes-total",
        1,
        "{name} packs {a} boxes with {b} {item} in each box. How many {item} does {name} pack in total?",
        {"a": (23, 480), "b": (12, 96)},
        lambda n: n["a"] * n["b"],
        {"item": _STATIONERY},
    ),
    Wording(
        "warehouse-left",
        1,
        "A warehouse had {a} {item} in the morning and sent out {b} of them by the evening. "
        "How many {item} were left?",
        {"a": (1200, 9800), "b": (230, 1100)},
        lambda n: n["a"] - n["b"],
        {"item": _GOODS},
    ),
    Wording(
        "steps-sum",
        1,
        "{name} walked {a} steps on Monday and {b} steps on Tuesday. How many steps is that altogether?",
        {"a": (2300, 9900), "b": (1800, 9900)},
        lambda n: n["a"] + n["b"],
    ),
    Wording(
        "class-share",
        1,
        "A teacher shares {a} {item} equally among {b} students. How many {item} does each student get?",
        {"b": (13, 38), "k": (12, 67), "a": lambda n: n["b"] * n["k"]},
        lambda n: n["k"],
        {"item": _STATIONERY},
    ),
    Wording(
        "bags-over",
        1,
        "{name} puts {a} {item} into bags of {b} and fills as many bags as possible. "
        "How many {item} are left over?",
        {"a": (310, 4900), "b": (12, 64)},
        lambda n: n["a"] % n["b"],
        {"item": _FRUIT},
    ),
    Wording(
        "cinema-seats",
        1,
        "A cinema has {a} rows with {b} seats in each row. How many seats does the cinema have?",
        {"a": (17, 68), "b": (18, 77)},
        lambda n: n["a"] * n["b"],
    ),
    Wording(
        "tickets-cost",
        1,
        "A ticket for the {show} costs ${a}. How many dollars do {b} tickets cost?",
        {"a": (13, 89), "b": (17, 260)},
        lambda n: n["a"] * n["b"],
        {"show": ("concert", "circus", "opera", "museum", "match")},
    ),
    Wording(
        "factory-days",
        1,
        "A factory makes {a} {item} every day. How many {item} does it make in {b} days?",
        {"a": (130, 2900), "b": (12, 58)},
        lambda n: n["a"] * n["b"],
        {"item": _GOODS},
    ),
    Wording(
        "afford-most",
        1,
        "{name} has ${a} and wants to buy {item} that cost ${b} each. How many {item} can "
        "{name} buy at most?",
        {"a": (410, 4900), "b": (13, 78)},
        lambda n: n["a"] // n["b"],
        {"item": _GOODS},
    ),
    Wording(
        "towns-more",
        1,
        "{town} has {a} inhabitants and {town2} has {b}. How many more people live in {town} "
        "than in {town2}?",
        {"a": (5200, 9900), "b": (1100, 5100)},
        lambda n: n["a"] - n["b"],
        {"town": ("Ashford", "Milton", "Redhill"), "town2": ("Lowfield", "Bridgeport", "Norwood")},
    ),
    Wording(
        "rope-pieces",
        1,
        "A {thing} of {a} cm is cut into {b} equal pieces. How many cm long is each piece?",
        {"b": (12, 48), "k": (13, 140), "a": lambda n: n["b"] * n["k"]},
        lambda n: n["k"],
        {"thing": ("rope", "cable", "ribbon", "pipe")},
    ),
    Wording(
        "saving-missing",
        1,
        "{name} wants to save ${a} for a {thing} and has saved ${b} so far. How many dollars "
        "are still missing?",
        {"a": (820, 4900), "b": (130, 810)},
        lambda n: n["a"] - n["b"],
        {"thing": ("bicycle", "camera", "guitar", "laptop", "holiday")},
    ),
    Wording(
        "album-photos",
        1,
        "Every page of an album holds {a} photos. How many photos fit into {b} pages?",
        {"a": (12, 36), "b": (23, 180)},
        lambda n: n["a"] * n["b"],
    ),
    Wording(
        "vote-sum",
        1,
        "In an election, {a} people voted for {name} and {b} people voted for {other}. "
        "How many votes were cast for the two of them?",
        {"a": (1300, 9700), "b": (1200, 9800)},
        lambda n: n["a"] + n["b"],
    ),
    # Level 2: two or three operations
    Wording(
        "boxes-give",
        2,
        "{name} buys {a} boxes of {b} {item} and gives away {c} {item}. How many {item} does {name} keep?",
        {"a": (13, 95), "b": (24, 96), "c": (31, 290)},
        lambda n: n["a"] * n["b"] - n["c"],
        {"item": _STATIONERY},
    ),
    Wording(
        "crates-loose",
        2,
        "A shop has {a} crates with {b} {item} each, and {c} loose {item}. How many {item} "
        "does the shop have?",
        {"a": (13, 86), "b": (24, 96), "c": (31, 490)},
        lambda n: n["a"] * n["b"] + n["c"],
        {"item": _FRUIT},
    ),
    Wording(
        "cafe-days",
        2,
        "A café sells {a} cups of tea and {b} cups of coffee a day. How many cups does it sell in {c} days?",
        {"a": (37, 190), "b": (64, 280), "c": (12, 45)},
        lambda n: (n["a"] + n["b"]) * n["c"],
    ),
    Wording(
        "money-left",
        2,
        "{name} has ${a} and buys {b} {item} for ${c} each. How many dollars does {name} have left?",
        {"b": (12, 38), "c": (13, 64), "r": (27, 900), "a": lambda n: n["b"] * n["c"] + n["r"]},
        lambda n: n["a"] - n["b"] * n["c"],
        {"item": _GOODS},
    ),
    Wording(
        "broken-shelves",
        2,
        "A store receives {a} {item}, but {b} of them are broken. The rest are put on {c} shelves, "
        "the same number on each. How many {item} are on each shelf?",
        {"c": (12, 36), "k": (14, 68), "b": (13, 95), "a": lambda n: n["c"] * n["k"] + n["b"]},
        lambda n: (n["a"] - n["b"]) // n["c"],
        {"item": _GOODS},
    ),
    Wording(
        "hotel-lamps",
        2,
        "A hotel has {a} floors with {b} rooms on each floor. Every room has {c} {item}. "
        "How many {item} are there in the hotel?",
        {"a": (6, 28), "b": (13, 46), "c": (3, 14)},
        lambda n: n["a"] * n["b"] * n["c"],
        {"item": ("lamps", "towels", "chairs", "pillows")},
    ),
    Wording(
        "zoo-tickets",
        2,
        "A zoo sells {a} adult tickets for ${b} each and {c} child tickets for ${d} each. "
        "How many dollars does the zoo take in?",
        {"a": (43, 380), "b": (14, 36), "c": (37, 290), "d": (6, 13)},
        lambda n: n["a"] * n["b"] + n["c"] * n["d"],
    ),
    Wording(
        "rain-average",
        2,
        "It rained {a} mm in June, {b} mm in July and {c} mm in August. "
        "What was the average rainfall per month in mm?",
        {"a": (23, 180), "b": (21, 190), "c": (22, 170)},
        lambda n: Fraction(n["a"] + n["b"] + n["c"], 3),
    ),
    Wording(
        "baskets-over",
        2,
        "{name} picks {a} {item} and {other} picks {b} {item}. Together they fill baskets of {c} {item}. "
        "How many {item} are left over?",
        {"a": (210, 980), "b": (190, 990), "c": (13, 48)},
        lambda n: (n["a"] + n["b"]) % n["c"],
        {"item": _FRUIT},
    ),
    Wording(
        "printer-books",
        2,
        "A printer prints {a} pages a minute. How many complete books of {c} pages can it "
        "print in {b} minutes?",
        {"a": (38, 140), "b": (45, 290), "c": (112, 480)},
        lambda n: n["a"] * n["b"] // n["c"],
    ),
    Wording(
        "readers-rest",
        2,
        "A novel has {a} pages. {name} reads {b} pages on Saturday and {c} pages on Sunday. "
        "How many pages are still to be read?",
        {"a": (540, 1480), "b": (67, 240), "c": (58, 260)},
        lambda n: n["a"] - n["b"] - n["c"],
    ),
    Wording(
        "stamps-times",
        2,
        "{name} has {a} stamps and {other} has {b} times as many. How many stamps do they have together?",
        {"a": (134, 980), "b": (3, 19)},
        lambda n: n["a"] * (1 + n["b"]),
    ),
    Wording(
        "visitors-percent",
        2,
        "Of the {a} visitors of a fair, {b} percent bought their ticket online. How many visitors did not?",
        {"k": (37, 290), "a": lambda n: 20 * n["k"], "j": (2, 18), "b": lambda n: 5 * n["j"]},
        lambda n: Fraction(n["a"] * (100 - n["b"]), 100),
    ),
    Wording(
        "craft-profit",
        2,
        "{name} makes {a} {item}. Each one costs ${b} to make and is sold for ${c}. "
        "How many dollars of profit does {name} make?",
        {"a": (34, 380), "b": (7, 38), "c": (45, 96)},
        lambda n: n["a"] * (n["c"] - n["b"]),
        {"item": ("vases", "scarves", "bowls", "candles", "baskets")},
    ),
    Wording(
        "bus-trips",
        2,
        "{a} people want to take the bus to the {place}. A bus holds {b} people. "
        "How many people are still waiting after {c} full buses have left?",
        {"b": (38, 72), "c": (7, 24), "r": (13, 400), "a": lambda n: n["b"] * n["c"] + n["r"]},
        lambda n: n["a"] - n["b"] * n["c"],
        {"place": ("beach", "stadium", "airport", "festival")},
    ),
    Wording(
        "runner-weeks",
        2,
        "{name} runs {a} m every weekday and {b} m every Saturday, and rests on Sunday. "
        "How many m does {name} run in a week?",
        {"a": (1150, 4850), "b": (5200, 9800)},
        lambda n: 5 * n["a"] + n["b"],
    ),
    # Level 3: more operations, percentages, decimals
    Wording(
        "cafe-change",
        3,
        "{name} orders {a} sandwiches at {usd_b} each and {c} drinks at {usd_d} each, "
        "and pays with a ${e} voucher. How many dollars of the voucher are left?",
        {"a": (6, 19), "usd_b": (385, 890), "c": (5, 18), "usd_d": (165, 390), "e": (250, 400)},
        lambda n: n["e"] - Fraction(n["a"] * n["usd_b"] + n["c"] * n["usd_d"], 100),
    ),
    Wording(
        "scores-average",
        3,
        "In four games {name} scored {a}, {b}, {c} and {d} points. What was the average score?",
        {"a": (117, 380), "b": (123, 390), "c": (109, 370), "d": (131, 360)},
        lambda n: Fraction(n["a"] + n["b"] + n["c"] + n["d"], 4),
    ),
    Wording(
        "discount-delivery",
        3,
        "A {thing} costs ${a}. {name} gets a discount of {b} percent on it and then pays ${c} for delivery. "
        "How many dollars does {name} pay in total?",
        {"a": (240, 1900), "j": (2, 9), "b": lambda n: 5 * n["j"], "c": (13, 68)},
        lambda n: Fraction(n["a"] * (100 - n["b"]), 100) + n["c"],
        {"thing": ("sofa", "fridge", "desk", "washing machine")},
    ),
    Wording(
        "trip-speed",
        3,
        "A train travels {b} hours at {a} km/h and then {d} hours at {c} km/h. "
        "What is its average speed over the whole trip in km/h?",
        {"a": (82, 190), "b": (2, 6), "c": (64, 170), "d": (2, 6)},
        lambda n: Fraction(n["a"] * n["b"] + n["c"] * n["d"], n["b"] + n["d"]),
    ),
    Wording(
        "fence-cost",
        3,
        "A rectangular field is {a} m long and {b} m wide. A fence around it costs {usd_c} per metre. "
        "How many dollars does the fence cost?",
        {"a": (84, 390), "b": (37, 180), "usd_c": (715, 2890)},
        lambda n: Fraction(2 * (n["a"] + n["b"]) * n["usd_c"], 100),
    ),
    Wording(
        "savings-interest",
        3,
        "{name} puts ${a} into an account with {b} percent simple interest a year. "
        "How many dollars are in the account after {c} years?",
        {"a": (1250, 9800), "b": (2, 9), "c": (3, 14)},
        lambda n: n["a"] + Fraction(n["a"] * n["b"] * n["c"], 100),
    ),
    Wording(
        "orchard-cartons",
        3,
        "An orchard has {a} trees with {b} {item} on each. {c} {item} are spoiled, and the others are packed "
        "into cartons of {d}. How many {item} do not fill a carton?",
        {"a": (36, 180), "b": (48, 160), "c": (113, 890), "d": (13, 72)},
        lambda n: (n["a"] * n["b"] - n["c"]) % n["d"],
        {"item": _FRUIT},
    ),
    Wording(
        "overtime-pay",
        3,
        "{name} earns ${a} an hour for the first 40 hours of a week and one and a half times "
        "as much for every "
        "hour after that. How many dollars does {name} earn in a week of {b} hours?",
        {"a": (14, 48), "b": (43, 59)},
        lambda n: 40 * n["a"] + Fraction(3 * n["a"] * (n["b"] - 40), 2),
    ),
    Wording(
        "fuel-cost",
        3,
        "A car uses {a} litres of fuel per 100 km, and a litre costs {usd_b}. "
        "How many dollars does the fuel for {c} km cost?",
        {"a": (5, 14), "usd_b": (130, 210), "k": (7, 38), "c": lambda n: 50 * n["k"]},
        lambda n: Fraction(n["a"] * n["c"] * n["usd_b"], 10000),
    ),
    Wording(
        "school-trip",
        3,
        "{a} students and {b} teachers go on a trip. The bus costs ${c} in all, and each "
        "person pays ${d} for "
        "lunch and ${e} for the museum. What does the trip cost in dollars?",
        {"a": (47, 180), "b": (4, 14), "c": (340, 980), "d": (6, 14), "e": (7, 19)},
        lambda n: n["c"] + (n["a"] + n["b"]) * (n["d"] + n["e"]),
    ),
    Wording(
        "growth-two-years",
        3,
        "A club had {a} members. In the first year the number grew by {b} percent, and in the second year "
        "{c} members left. How many members does the club have now?",
        {"k": (24, 190), "a": lambda n: 20 * n["k"], "j": (2, 15), "b": lambda n: 5 * n["j"], "c": (27, 240)},
        lambda n: Fraction(n["a"] * (100 + n["b"]), 100) - n["c"],
    ),
)

TEST: tuple[Wording, ...] = (
    Wording(
        "library-shelves",
        1,
        "Each of the {a} shelves in a library carries {b} books. What is the number of books on all shelves?",
        {"a": (26, 290), "b": (18, 94)},
        lambda n: n["a"] * n["b"],
    ),
    Wording(
        "market-truck",
        1,
        "Out of {a} {item} on a farm truck, {b} were sold at the market. What number of {item} came back?",
        {"a": (1100, 6800), "b": (240, 1050)},
        lambda n: n["a"] - n["b"],
        {"item": ("melons", "pumpkins", "cabbages", "eggs", "potatoes")},
    ),
    Wording(
        "dance-groups",
        1,
        "{a} dancers form groups of {b}, and the dancers who do not make up a full group sit down. "
        "How many dancers sit down?",
        {"a": (320, 2900), "b": (13, 58)},
        lambda n: n["a"] % n["b"],
    ),
    Wording(
        "wedding-tables",
        1,
        "For a wedding, {a} {item} are spread evenly over {b} tables. How many {item} stand on one table?",
        {"b": (14, 46), "k": (12, 54), "a": lambda n: n["b"] * n["k"]},
        lambda n: n["k"],
        {"item": ("glasses", "roses", "plates", "spoons")},
    ),
    Wording(
        "cyclist-weeks",
        1,
        "{name} cycles {a} km a week. What distance in km does {name} cover within {b} weeks?",
        {"a": (48, 390), "b": (13, 52)},
        lambda n: n["a"] * n["b"],
    ),
    Wording(
        "bakery-sales",
        1,
        "A bakery sold {a} {item} before noon and {b} after noon. What were its sales of {item} for the day?",
        {"a": (640, 4900), "b": (380, 3900)},
        lambda n: n["a"] + n["b"],
        {"item": ("rolls", "muffins", "pretzels", "bagels")},
    ),
    Wording(
        "flour-cakes",
        1,
        "One {item} takes {b} g of flour. What is the largest number of such {item}s one can bake "
        "from {a} g of flour?",
        {"a": (2300, 9700), "b": (85, 260)},
        lambda n: n["a"] // n["b"],
        {"item": ("cake", "pizza", "pie")},
    ),
    Wording(
        "ship-unloads",
        2,
        "A cargo ship carries {a} containers of {b} tonnes each, and {c} tonnes are unloaded "
        "in the first port. "
        "How many tonnes remain on board?",
        {"a": (24, 190), "b": (12, 38), "c": (67, 270)},
        lambda n: n["a"] * n["b"] - n["c"],
    ),
    Wording(
        "choir-songs",
        2,
        "A choir gave {a} concerts of {b} songs and recorded another {c} songs in a studio. "
        "What is the number of songs it sang?",
        {"a": (17, 84), "b": (12, 29), "c": (23, 190)},
        lambda n: n["a"] * n["b"] + n["c"],
    ),
    Wording(
        "tank-litres",
        2,
        "A tank contains {a} litres of water, and the {user} uses {b} litres every day. "
        "How much water in litres is in the tank after {c} days?",
        {"b": (34, 180), "c": (12, 36), "r": (45, 900), "a": lambda n: n["b"] * n["c"] + n["r"]},
        lambda n: n["a"] - n["b"] * n["c"],
        {"user": ("farm", "laundry", "garden", "stable")},
    ),
    Wording(
        "ferry-crossings",
        2,
        "On each crossing a ferry transports {a} cars and {b} lorries. "
        "How many vehicles does it transport on {c} crossings?",
        {"a": (43, 160), "b": (14, 58), "c": (13, 64)},
        lambda n: (n["a"] + n["b"]) * n["c"],
    ),
    Wording(
        "gardener-rows",
        2,
        "A gardener plants {a} rows of {b} tulips and {c} rows of {d} roses. "
        "What is the total number of flowers?",
        {"a": (13, 68), "b": (24, 88), "c": (12, 57), "d": (16, 79)},
        lambda n: n["a"] * n["b"] + n["c"] * n["d"],
    ),
    Wording(
        "brick-walls",
        2,
        "A machine produces {a} bricks an hour, and a wall takes {c} bricks. "
        "How many whole walls can be built from the bricks of {b} hours?",
        {"a": (130, 690), "b": (12, 75), "c": (410, 1900)},
        lambda n: n["a"] * n["b"] // n["c"],
    ),
    Wording(
        "fish-average",
        2,
        "Three fishermen caught {a}, {b} and {c} kg of fish. How many kg did a fisherman catch on average?",
        {"a": (47, 290), "b": (52, 310), "c": (44, 270)},
        lambda n: Fraction(n["a"] + n["b"] + n["c"], 3),
    ),
    Wording(
        "marbles-times",
        2,
        "{name} owns {a} marbles, and {other} owns {b} times that number. "
        "What is the sum of the marbles of both?",
        {"a": (126, 870), "b": (3, 18)},
        lambda n: n["a"] * (1 + n["b"]),
    ),
    Wording(
        "plane-seats",
        2,
        "A plane has {a} rows of {b} seats, and {c} seats were empty on the flight to {city}. "
        "What was the number of passengers?",
        {"a": (28, 67), "b": (6, 10), "c": (13, 110)},
        lambda n: n["a"] * n["b"] - n["c"],
        {"city": ("Oslo", "Lima", "Cairo", "Seoul", "Porto")},
    ),
    Wording(
        "paint-budget",
        3,
        "A painter buys {a} buckets of paint at {usd_b} apiece and {c} brushes at {usd_d} "
        "apiece out of a budget "
        "of ${e}. What amount in dollars remains?",
        {"a": (5, 16), "usd_b": (1450, 2990), "c": (4, 17), "usd_d": (240, 780), "e": (650, 990)},
        lambda n: n["e"] - Fraction(n["a"] * n["usd_b"] + n["c"] * n["usd_d"], 100),
    ),
    Wording(
        "harvest-mean",
        3,
        "Over four years an olive grove yielded {a}, {b}, {c} and {d} kg. What was the mean yield in kg?",
        {"a": (317, 980), "b": (323, 990), "c": (309, 970), "d": (331, 960)},
        lambda n: Fraction(n["a"] + n["b"] + n["c"] + n["d"], 4),
    ),
    Wording(
        "sale-assembly",
        3,
        "The price of a {thing} of ${a} is cut by {b} percent, and assembly adds ${c}. "
        "What does {name} pay for everything in dollars?",
        {"a": (320, 2400), "j": (2, 9), "b": lambda n: 5 * n["j"], "c": (24, 95)},
        lambda n: Fraction(n["a"] * (100 - n["b"]), 100) + n["c"],
        {"thing": ("wardrobe", "treadmill", "greenhouse", "bed")},
    ),
    Wording(
        "carpet-price",
        3,
        "A hall measures {a} m by {b} m. Carpet for its floor sells at {usd_c} per square "
        "metre, and laying it "
        "costs ${d} in all. What is the whole price in dollars?",
        {"a": (13, 48), "b": (12, 36), "usd_c": (815, 3890), "d": (140, 480)},
        lambda n: Fraction(n["a"] * n["b"] * n["usd_c"], 100) + n["d"],
    ),
    Wording(
        "loan-simple",
        3,
        "{name} lends {other} ${a} at {b} percent simple interest per year. "
        "What must {other} give back after {c} years, in dollars?",
        {"a": (1150, 8900), "b": (3, 9), "c": (2, 12)},
        lambda n: n["a"] + Fraction(n["a"] * n["b"] * n["c"], 100),
    ),
    Wording(
        "nails-packets",
        3,
        "A workshop gets {a} sacks with {b} nails in each and throws away {c} bent nails. The "
        "good ones go into "
        "packets of {d}. What number of nails does not fit into a full packet?",
        {"a": (14, 96), "b": (240, 890), "c": (113, 690), "d": (24, 96)},
        lambda n: (n["a"] * n["b"] - n["c"]) % n["d"],
    ),
)
