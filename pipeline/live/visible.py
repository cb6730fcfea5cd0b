"""Names as a page may show them: names come from events, and whoever makes events may be hostile.

A name is cut to NAME_CHARACTERS, and what has no picture of its own stands there as its number, ‹U+202E›: control
characters, marks that turn the direction of writing, joiners and spaces of no width, every space but the usual one,
whatever Unicode has not given out. So what is shown is what is there, and it has at most NAME_BYTES bytes.
"""

import unicodedata

NAME_CHARACTERS = 64
NAME_BYTES = NAME_CHARACTERS * len("‹U+10FFFF›".encode()) + len("…".encode())

# Control, format, surrogate, private use, not given out; separators of lines, paragraphs and words.
_WITHOUT_PICTURE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}


def visible(name: str) -> str:
    """Return `name` with all that is invisible made visible, cut with an ellipsis if it is long."""
    shown = "".join(map(_picture, name[:NAME_CHARACTERS]))
    return shown if len(name) <= NAME_CHARACTERS else shown + "…"


def _picture(character: str) -> str:
    if character == " " or unicodedata.category(character) not in _WITHOUT_PICTURE:
        return character
    return f"‹U+{ord(character):04X}›"
