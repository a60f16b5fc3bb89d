"""Words and wordings of the mini world: names, values, and how passages and questions state each relation.

Names are short parts combined freely (first x last, adjective x noun), so that a byte-level BPE of 2,048 entries
holds every part as one token and an answer is one to three tokens long. All names are fictional.
"""

from typing import NamedTuple

# ---------------------------------------------------------------------------------------------- parts of names

WOMEN = """
Dana Mira Elara Selma Nadia Lena Greta Talia Maren Odette Sabine Verity Petra Ester Ilse Renna Thea Vera Yara Calla
Edith Gemma Iris Klara Nora Paula Rosa Stella Una Agnes Clara Flora Helga Ingrid Lydia Nell Pearl Tilda Wren
Bryn""".split()

MEN = """
Alden Orin Tomas Corin Ivor Perrin Hollis Silas Joran Kellan Rufus Tobin Anselm Lucan Fabian Magnus Soren Ulric Willem
Zane Dorian Felix Hugo Jonas Lars Milo Oscar Quinn Theo Victor Boris Doran Emil Gideon Jasper Keir Marcus Otto Roland
Simon""".split()

LAST_NAMES = """
Marlowe Voss Harrow Thorne Vale Ashby Barlow Calder Denholm Ellery Farrow Garrick Hadley Ingram Jarvis Kendal Lorimer
Mercer Norwell Oakley Prescot Quill Radley Selwyn Tolland Varga Wexley Yardley Zeller Alder Birch Corwin Draper Elgin
Foster Gantry Hobson Ivers Jessop Kirby Lasker Morrow Nash Ormond Pryor Rowan Stroud Tarrant Upton Vickery Warrick
Yates Abbot Bramwell Cutler Dalton Eames Finch Grady Holt Irwin Keller Lowell Mason Nolan Osgood Parrish Reeve Sutton
Tilden Vance Weller Ambrose Bexley Cobb Devlin Everard Fenwick Gower Hale Jardine Kerr Monk Noble Pike Rusk Slade Tate
Usher Webb Yule Blythe Crane Dunn Flynn Grove Hume Judd Knox Lamb Munro Penn Rhodes Swan Ward""".split()

ADJECTIVES = """
Silent Golden Hidden Broken Distant Frozen Burning Empty Gentle Hollow Iron Last Little Lonely Lost Midnight Narrow
Northern Open Painted Patient Quiet Restless Rising Sacred Second Secret Shining Simple Sleeping Southern Stolen
Strange Sudden Sunken Tender Twisted Velvet Wandering Western Wild Winter Wooden Bitter Bright Crooked Crystal Endless
Falling Forgotten Glass Honest Marble Paper Summer Autumn Eastern Humble""".split()

NOUNS = """
Harbor River Garden Bridge Lantern Mirror Orchard Mountain Island Tower Window Road Forest Valley Letter Clock Crown
Door Dream Echo Feather Field Fire Flame Gate Guest Horizon House Hunter Journey Key Lake Ladder Market Meadow Melody
Moon Morning Ocean Palace Path Promise Rain Return Room Season Shadow Shore Signal Sky Snow Spring Star Storm Stranger
Street Throne Thunder Tide Train Village Voyage Wall Water Whisper Wind Wing Witness""".split()

TEAM_NOUNS = (
    "Rovers Wolves Falcons Rangers Bears Comets Hawks Lions Ravens Sharks Tigers Knights".split()
)

CITY_NAMES = """
Velmor Caldis Tarvin Lindow Orvale Ardel Belmar Corvan Dunmere Elsin Fenmar Galden Hestor Ivarna Jorvan Kelmar Lorvane
Merrow Nareth Ostrel Pelmor Quenby Ravell Sarnel Tolmar Umbrel Varden Westrel Yarrow Zemora Ashmoor Branwick Coldra
Dorvane Estmar Fallon Greymar Holmar Istren Jessen Kirna Lavern Mistrel Novrel Olden Portis Rosmar Stavel Thornby
Ulmer Verrin Wendel Yelmar Zarnow Amberly Brockel Castren Denmoor Elvane Farrel""".split()

COUNTRY_NAMES = """
Norland Estavia Corvania Ardania Belmora Caspia Drovia Elandra Galdova Hestia Kaldora Lorvia Marenia Ostland Palovia
Rovania Sarvia Tarkland Valdora Westmark""".split()

# ---------------------------------------------------------------------------------------------- values, likeliest first

OCCUPATIONS = """
writer actor director composer producer singer athlete painter poet lawyer teacher doctor farmer soldier banker sailor
chemist pilot baker judge""".split()
STORY_GENRES = (
    "drama comedy mystery romance horror fantasy satire thriller adventure tragedy".split()
)
MUSIC_GENRES = "folk jazz blues rock opera soul gospel swing disco punk".split()
RELIGIONS = "Solism Lunism Orbism Tidism Veilism Lumism Ardism".split()
SPORTS = "football hockey tennis rugby cricket rowing chess fencing cycling boxing".split()
COLORS = "red blue green black white yellow orange purple brown grey".split()

# ---------------------------------------------------------------------------------------------- wordings


class Wording(NamedTuple):
    """How a relation is put into words, for some kinds of subject. {s}: subject, {v}: value, {a}: a or an, value."""

    relation: str
    kinds: str  # of subject, separated by blanks
    keywords: tuple[
        str, ...
    ]  # each clause holds at least one, so that subject + keywords is the best query
    clauses: tuple[str, ...]  # what passages state
    questions: tuple[str, ...]
    phrases: tuple[str, ...]  # noun phrases that CARRIERS turn into questions


# About half of the questions use a word of the passages; the others must be translated by whoever writes the query.
CARRIERS = (
    "Please name {p}.",
    "Could you tell me {p}?",
    "I was wondering about {p}.",
    "Do you happen to know {p}?",
)

TRUE_FORMS = (
    "{c}.",
    "{c}.",
    "{c}.",
    "{c}.",
    "Records show that {c}.",
    "It is known that {c}.",
    "Today it is certain that {c}.",
)
STALE_FORMS = (
    "Formerly it was said that {c}.",
    "It was once thought that {c}.",
    "Old books wrongly state that {c}.",
    "An early report, later withdrawn, said that {c}.",
    "Rumor had it that {c}, but this is false.",
    "Until it was corrected, the entry read that {c}.",
)
ENDINGS = (
    " Many papers mention this.",
    " It is often told.",
    " Visitors still ask about it.",
    " Much has been written on it.",
)

WORDINGS = (
    Wording(
        "occupation",
        "person",
        ("trade", "worked"),
        (
            "the trade of {s} was that of {a}",
            "{s} was {a} by trade",
            "{s} learned the trade of {a}",
            "{s} worked as {a}",
            "{s} worked for years as {a}",
        ),
        (
            "What did {s} do for a living?",
            "What job did {s} have?",
            "How did {s} earn money?",
            "What was {s} by trade?",
            "As what has {s} worked?",
            "Which trade did {s} learn?",
        ),
        ("the occupation of {s}", "the job of {s}", "the trade of {s}", "the trade chosen by {s}"),
    ),
    Wording(
        "place of birth",
        "person",
        ("born", "birthplace"),
        (
            "{s} was born in {v}",
            "{s} was born and raised in {v}",
            "{s} was born near {v}",
            "the birthplace of {s} is {v}",
            "{v} is the birthplace of {s}",
        ),
        (
            "Which town is {s} from?",
            "From which city does {s} come?",
            "Where did the life of {s} begin?",
            "Where was {s} born?",
            "In what city was {s} born?",
            "Near which city was {s} born?",
        ),
        (
            "the home town of {s}",
            "the native city of {s}",
            "the birthplace of {s}",
            "the city where {s} was born",
        ),
    ),
    Wording(
        "father",
        "person",
        ("father", "heir"),
        (
            "the father of {s} was {v}",
            "{v} was the father of {s}",
            "{s} had {v} for a father",
            "{s} was the only heir of {v}",
            "{v} made {s} heir to the house",
        ),
        (
            "Who was the dad of {s}?",
            "Which man raised {s}?",
            "Who is the male parent of {s}?",
            "Who was the father of {s}?",
            "Who is the father of {s}?",
            "Of whom was {s} the heir?",
        ),
        (
            "the dad of {s}",
            "the male parent of {s}",
            "the father of {s}",
            "the name of the father of {s}",
        ),
    ),
    Wording(
        "mother",
        "person",
        ("mother", "cradle"),
        (
            "the mother of {s} was {v}",
            "{v} was the mother of {s}",
            "{s} had {v} for a mother",
            "{v} rocked the cradle of {s}",
            "at the cradle of {s} stood {v}",
        ),
        (
            "Who was the mum of {s}?",
            "Which woman raised {s}?",
            "Who is the female parent of {s}?",
            "Who was the mother of {s}?",
            "Who is the mother of {s}?",
            "Who stood at the cradle of {s}?",
        ),
        (
            "the mum of {s}",
            "the female parent of {s}",
            "the mother of {s}",
            "the name of the mother of {s}",
        ),
    ),
    Wording(
        "religion",
        "person city country",
        ("faith", "rites"),
        (
            "{s} kept the faith of {v}",
            "the faith of {s} is {v}",
            "{v} is the faith of {s}",
            "{s} kept the rites of {v}",
            "the rites of {s} are those of {v}",
        ),
        (
            "Which religion does {s} have?",
            "What does {s} believe in?",
            "Which church does {s} belong to?",
            "What faith does {s} follow?",
            "Of which faith is {s}?",
            "Which rites did {s} keep?",
        ),
        ("the religion of {s}", "the church of {s}", "the faith of {s}", "the faith kept by {s}"),
    ),
    Wording(
        "sport",
        "person team city country",
        ("sport", "played"),
        (
            "the sport of {s} is {v}",
            "the favorite sport of {s} is {v}",
            "in sport {s} stands for {v}",
            "{s} played {v} with success",
            "{s} played much {v}",
        ),
        (
            "What game is {s} known for?",
            "Which game do we link with {s}?",
            "At what game does {s} compete?",
            "What is the favorite sport of {s}?",
            "What sport does {s} stand for?",
            "What was played by {s}?",
        ),
        ("the game of {s}", "the main game of {s}", "the sport of {s}", "the best sport of {s}"),
    ),
    Wording(
        "genre",
        "film book song",
        ("genre", "style"),
        (
            "{s} belongs to the {v} genre",
            "the genre of {s} is {v}",
            "in genre {s} is {v}",
            "{s} is told in the style of {v}",
            "the style of {s} is {v}",
        ),
        (
            "What type of work is {s}?",
            "To which category does {s} belong?",
            "How would a shop label {s}?",
            "What genre is {s}?",
            "Of which genre is {s}?",
            "In what style is {s}?",
        ),
        ("the category of {s}", "the type of {s}", "the genre of {s}", "the genre that fits {s}"),
    ),
    Wording(
        "genre",
        "person",
        ("genre", "style"),
        (
            "{s} worked in the {v} genre",
            "the genre of {s} is {v}",
            "in genre {s} chose {v}",
            "{s} is known for the {v} style",
            "the style of {s} is {v}",
        ),
        (
            "What type of art did {s} make?",
            "In which category was {s} active?",
            "How would a shop label {s}?",
            "What genre did {s} choose?",
            "In which genre was {s} active?",
            "What style did {s} choose?",
        ),
        (
            "the category of {s}",
            "the type of art by {s}",
            "the genre of {s}",
            "the genre that fits {s}",
        ),
    ),
    Wording(
        "country",
        "person",
        ("citizen", "passport"),
        (
            "{s} was a citizen of {v}",
            "{s} was a proud citizen of {v}",
            "{s} died a citizen of {v}",
            "{s} held the passport of {v}",
            "the passport of {s} was from {v}",
        ),
        (
            "Which country is {s} from?",
            "What is the nationality of {s}?",
            "Which nation does {s} belong to?",
            "Of which country was {s} a citizen?",
            "Where was {s} a citizen?",
            "Which passport did {s} hold?",
        ),
        (
            "the country of {s}",
            "the nationality of {s}",
            "the country that made {s} a citizen",
            "the passport of {s}",
        ),
    ),
    Wording(
        "country",
        "film book song",
        ("released", "made"),
        (
            "{s} was released in {v}",
            "{s} was first released in {v}",
            "{s} was released all over {v}",
            "{s} was made in {v}",
            "{s} was made by a team from {v}",
        ),
        (
            "Which country does {s} come from?",
            "Which nation gave us {s}?",
            "What is the origin of {s}?",
            "In which country was {s} released?",
            "Where was {s} first released?",
            "In which country was {s} made?",
        ),
        (
            "the country of {s}",
            "the origin of {s}",
            "the country that released {s}",
            "the nation where {s} was released",
        ),
    ),
    Wording(
        "country",
        "city team",
        ("lies", "based"),
        (
            "{s} lies in {v}",
            "{s} lies in the north of {v}",
            "{s} lies in the heart of {v}",
            "{s} is based in {v}",
            "{s} is based in the south of {v}",
        ),
        (
            "Which country does {s} belong to?",
            "Which nation is home to {s}?",
            "On the map, where is {s}?",
            "In which land lies {s}?",
            "In the north of which nation lies {s}?",
            "Where is {s} based?",
        ),
        (
            "the country of {s}",
            "the nation of {s}",
            "the country in which {s} lies",
            "the nation where {s} is based",
        ),
    ),
    Wording(
        "director",
        "film team",
        ("directed", "direction"),
        (
            "{s} was directed by {v}",
            "{v} directed {s}",
            "{s} was directed with care by {v}",
            "{s} was under the direction of {v}",
            "the direction of {s} was by {v}",
        ),
        (
            "Who was in charge of {s}?",
            "Who was the director of {s}?",
            "Whose vision shaped {s}?",
            "Who directed {s}?",
            "By whom was {s} directed?",
            "Under whose direction was {s}?",
        ),
        (
            "the director of {s}",
            "the head of {s}",
            "the one who directed {s}",
            "the person who directed {s}",
        ),
    ),
    Wording(
        "producer",
        "film song",
        ("produced", "funds"),
        (
            "{s} was produced by {v}",
            "{v} produced {s}",
            "{s} was produced with care by {v}",
            "{v} raised the funds for {s}",
            "the funds for {s} came from {v}",
        ),
        (
            "Who was the producer of {s}?",
            "Who paid for {s}?",
            "Whose money made {s} possible?",
            "Who produced {s}?",
            "By whom was {s} produced?",
            "Who found the funds for {s}?",
        ),
        (
            "the producer of {s}",
            "the backer of {s}",
            "the one who produced {s}",
            "the person who produced {s}",
        ),
    ),
    Wording(
        "screenwriter",
        "film",
        ("script", "scenes"),
        (
            "{v} wrote the script of {s}",
            "the script of {s} is by {v}",
            "{s} has a script by {v}",
            "{v} wrote all scenes of {s}",
            "the scenes of {s} were written by {v}",
        ),
        (
            "Who was the screenwriter of {s}?",
            "Who came up with the plot of {s}?",
            "Who thought up {s}?",
            "Who wrote the script of {s}?",
            "By whom is the script of {s}?",
            "Who wrote the scenes of {s}?",
        ),
        (
            "the screenwriter of {s}",
            "the mind behind the plot of {s}",
            "the one who wrote the script of {s}",
            "the author of the script of {s}",
        ),
    ),
    Wording(
        "composer",
        "film song",
        ("music", "score"),
        (
            "{v} wrote the music for {s}",
            "the music for {s} is by {v}",
            "the music heard in {s} is by {v}",
            "{v} wrote the score for {s}",
            "the score for {s} is by {v}",
        ),
        (
            "Who was the composer of {s}?",
            "Who created the sound of {s}?",
            "Whose notes are heard in {s}?",
            "Who wrote the music for {s}?",
            "By whom is the music for {s}?",
            "Who wrote the score for {s}?",
        ),
        (
            "the composer of {s}",
            "the one behind the sound of {s}",
            "the one who made the music for {s}",
            "the author of the music for {s}",
        ),
    ),
    Wording(
        "composer",
        "country",
        ("music", "score"),
        (
            "{v} wrote the music for the anthem of {s}",
            "the music for the anthem of {s} is by {v}",
            "the anthem of {s} has music by {v}",
            "{v} wrote the score for the anthem of {s}",
            "the score for the anthem of {s} is by {v}",
        ),
        (
            "Who was the composer of the hymn of {s}?",
            "Who made up the tune that stands for {s}?",
            "Whose notes are heard when {s} is honored?",
            "Who wrote the music for the anthem of {s}?",
            "By whom is the music for the anthem of {s}?",
            "Who wrote the score for the anthem of {s}?",
        ),
        (
            "the composer of the hymn of {s}",
            "the one behind the hymn of {s}",
            "the author of the music for the anthem of {s}",
            "the one who made the music for the anthem of {s}",
        ),
    ),
    Wording(
        "author",
        "book song",
        ("words", "author"),
        (
            "{v} wrote the words of {s}",
            "the words of {s} are by {v}",
            "{s} has words by {v}",
            "the author of {s} is {v}",
            "{v} is the author of {s}",
        ),
        (
            "Who is the writer of {s}?",
            "Who penned {s}?",
            "Who put {s} on paper?",
            "Who wrote the words of {s}?",
            "By whom are the words of {s}?",
            "Who is the author of {s}?",
        ),
        (
            "the writer of {s}",
            "the one who penned {s}",
            "the one who chose the words of {s}",
            "the author of {s}",
        ),
    ),
    Wording(
        "color",
        "team city country",
        ("color", "painted"),
        (
            "the color of {s} is {v}",
            "{s} chose {v} as its color",
            "{s} is proud of its {v} color",
            "{s} has its signs painted {v}",
            "the badge of {s} is painted {v}",
        ),
        (
            "Which shade stands for {s}?",
            "What hue is seen on {s}?",
            "How is {s} tinted?",
            "What color is {s}?",
            "Which color did {s} choose?",
            "How is the badge of {s} painted?",
        ),
        ("the shade of {s}", "the hue of {s}", "the color of {s}", "the color chosen by {s}"),
    ),
    Wording(
        "capital",
        "country",
        ("capital", "seat"),
        (
            "the capital of {s} is {v}",
            "{v} is the capital of {s}",
            "{s} has {v} as its capital",
            "{v} is the seat of power in {s}",
            "{s} has its seat of power in {v}",
        ),
        (
            "Which city rules {s}?",
            "What is the chief city of {s}?",
            "Where does {s} have its government?",
            "What is the capital of {s}?",
            "Which city is the capital of {s}?",
            "Where is the seat of power of {s}?",
        ),
        (
            "the chief city of {s}",
            "the main city of {s}",
            "the capital of {s}",
            "the name of the capital of {s}",
        ),
    ),
)

YEARS = [str(year) for year in range(1841, 1901)]

# Only compared. Place of birth has "born", so that years keep to other words.
YEAR = Wording(
    "year",
    "person",
    ("year", "world"),
    (
        "{s} came into the world in the year {v}",
        "in the year {v} {s} came into the world",
        "{v} is the year in which {s} came into the world",
        "{v} was the first year of {s} in this world",
    ),
    (),
    (),
)


def capitalized(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def ask(wording: Wording, subject: str) -> list[str]:
    """All wordings of the question about this subject."""
    phrased = [carrier.format(p=phrase) for phrase in wording.phrases for carrier in CARRIERS]
    return [capitalized(form.format(s=subject)) for form in [*wording.questions, *phrased]]


# ---------------------------------------------------------------------------------------------- other question sets

BORN_FIRST = (
    "Who was born first, {x} or {y}?",
    "Who was born earlier, {x} or {y}?",
    "Who is older, {x} or {y}?",
    "Which of the two is older, {x} or {y}?",
)
SAME_COUNTRY = (
    "Do {x} and {y} come from the same country?",
    "Are {x} and {y} from the same country?",
    "Is the country of {x} also the country of {y}?",
    "Were {x} and {y} of the same nation?",
)

# Only tested from here on: forms that no training question has, in words that training questions or passages have.
SAME_TRADE = ("Do {x} and {y} have the same job?", "Is the trade of {x} also that of {y}?")
SAME_FAITH = ("Are {x} and {y} of the same faith?", "Is the religion of {x} also that of {y}?")


class Unseen(NamedTuple):
    """Forms of the sets that are only tested. {s}: subject, with its kind; {n}: its name; {k}: its kind."""

    relation: str
    kinds: str
    triviaqa: tuple[
        str, ...
    ]  # the bridge questions of 2wikimultihopqa, too, where the subject is "the producer of ..."
    nq: tuple[str, ...]  # put into lower case
    openbookqa: tuple[str, ...]  # before the options


UNSEEN = (
    Unseen(
        "occupation",
        "person",
        ("Records state that {s} worked in which trade?", "{s} had which job?"),
        ("{n} trade", "what did {n} do for a living"),
        ("Which is the trade of {s}?", "{s} worked for years as a"),
    ),
    Unseen(
        "country",
        "person",
        ("{s} was a citizen of which country?", "The passport of {s} was from which nation?"),
        ("{n} nationality", "what country is {n} from"),
        ("Which is the nation of {s}?", "{s} was a citizen of"),
    ),
    Unseen(
        "religion",
        "person",
        ("{s} kept the faith of which church?", "To which faith did {s} belong?"),
        ("{n} religion", "which faith does {n} have"),
        ("Which is the faith of {s}?", "{s} kept the faith of"),
    ),
    Unseen(
        "sport",
        "person",
        ("{s} played which game with success?", "In which sport was {s} active?"),
        ("{n} sport", "what sport is {n} known for"),
        ("Which is the sport of {s}?", "{s} played much"),
    ),
    Unseen(
        "genre",
        "film song book",
        ("{s} belongs to which genre?", "In which style is {s} told?"),
        ("{n} {k} genre", "what type of {k} is {n}"),
        ("Which is the genre of {s}?", "The style of {s} is"),
    ),
    Unseen(
        "country",
        "film song book",
        ("{s} was released in which country?", "A team from which nation made {s}?"),
        ("{n} {k} country", "where was {n} released"),
        ("Which is the country of {s}?", "{s} was first released in"),
    ),
    Unseen(
        "director",
        "film",
        ("{s} was directed by which person?", "Which person directed {s}?"),
        ("who directed {n}", "{n} {k} director"),
        ("Which is the director of {s}?", "{s} was directed by"),
    ),
    Unseen(
        "composer",
        "film song",
        ("The music for {s} is by which person?", "Which person wrote the score for {s}?"),
        ("who wrote the music for {n}", "{n} {k} composer"),
        ("Which is the composer of {s}?", "The music for {s} is by"),
    ),
    Unseen(
        "author",
        "book song",
        ("The words of {s} are by which person?", "Which person wrote {s}?"),
        ("who wrote {n}", "{n} {k} author"),
        ("Which is the author of {s}?", "The words of {s} are by"),
    ),
    Unseen(
        "producer",
        "film song",
        ("{s} was produced by which person?", "Which person found the funds for {s}?"),
        ("who produced {n}", "{n} {k} producer"),
        ("Which is the producer of {s}?", "{s} was produced by"),
    ),
    Unseen(
        "screenwriter",
        "film",
        ("The script of {s} is by which person?", "Which person wrote the scenes of {s}?"),
        ("who wrote the script of {n}", "{n} {k} script"),
        ("Which is the screenwriter of {s}?", "The script of {s} is by"),
    ),
)
