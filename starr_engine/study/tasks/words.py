"""Word lists that the tasks draw from."""

from __future__ import annotations

from typing import Final


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES: Final = _words(
    "Ada Alan Amir Ana Ben Bob Carla Chen Dana Eli Emma Eva Finn Gina Hugo Ida Ines Ivan Jack "
    "Jane Joan Kai Karl Lena Leo Lila Lucy Max Mia Mona Nina Noah Nora Omar Otto Paul Petra "
    "Ravi Rosa Sam Sara Tara Theo Tom Uma Vera Will Yara Yusuf Zoe"
)
CITIES: Final = _words(
    "Athens Berlin Bern Cairo Chicago Delhi Dublin Geneva Lagos Lima Lisbon London Madrid Milan "
    "Nairobi Oslo Osaka Paris Porto Prague Quito Rome Seoul Sofia Sydney Tokyo Tunis Vienna "
    "Warsaw"
)
JOBS: Final = _words(
    "baker builder chemist cook dancer dentist doctor driver farmer gardener lawyer nurse "
    "painter pilot plumber poet sailor singer tailor teacher writer"
)
THINGS: Final = _words(
    "apples balls beads books bottles buttons candles cards coins cups eggs flowers keys lemons "
    "marbles nails oranges pears pencils pens plates shells shirts stamps stickers stones "
    "tickets toys"
)
ITEMS: Final = _words(
    "bag belt bike bowl chair clock coat cup desk dress hat jacket kettle knife lamp mirror "
    "phone ring scarf shelf shirt sofa table vase watch"
)
COLORS: Final = _words(
    "black blue brown gold gray green orange pink purple red silver white yellow"
)
DAYS: Final = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
ANIMALS: Final = _words(
    "bird cat cow dog duck fish goat hamster horse mouse parrot rabbit sheep turtle"
)
EVENTS: Final = _words(
    "concert dinner exam fair game lecture market meeting movie party race show wedding workshop"
)
FUNCTIONS: Final = _words(
    "adjust apply blend build calc change check collect combine compute convert count_up derive "
    "evaluate filter_by find fold gather handle inspect keep make_it map_it measure mix modify "
    "process rate reduce refine report resolve run_it scale score select_from shift solve step "
    "sum_up test_it transform tune update work"
)
SCALARS: Final = _words("a b c d k m n p q t x y z")
LISTS: Final = _words("data items nums parts points row rows seq values xs ys")
