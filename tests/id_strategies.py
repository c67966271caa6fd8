"""Ids as hypothesis draws them: any text, and often the characters that files and JSON treat."""

from hypothesis import strategies as st

from model.ids import MAX_ID_LENGTH

INFORMATION_SEPARATORS = "\x1c\x1d\x1e\x1f"
"""White space to Python, but not to Unicode."""

TRICKY = list("\"',;|\\/{}[]$*%\t\n\r\v\x00\x1f\x7f a7é한🦜\u200b\u2028\ufeff\u00a0")
CHARACTERS = st.sampled_from(TRICKY) | st.characters(
    exclude_categories=["Cs"],  # lone surrogates have no UTF-8 form
    exclude_characters="\ufffd",  # the sign of text that was no UTF-8, which CSV refuses
)
WRAPPED = [f"{one}x{one}{one}y{one}" for one in TRICKY]
"""An id for each of them, with the character at the start, in the middle and at the end."""
IDS = st.one_of(
    st.text(CHARACTERS, max_size=12),
    st.sampled_from(["007", "7.0", "-1", "null", "NaN", "é", "e\u0301", "a", " a", "a\t"]),
    st.sampled_from([15, 16, 31, 32, 255, 256, MAX_ID_LENGTH, MAX_ID_LENGTH + 1]).flatmap(
        lambda length: st.sampled_from("xé🦜").map(lambda one: one * length)
    ),
)


def is_id(text: str) -> bool:
    """Returns whether data preparation accepts the text as an id."""
    blank = all(one.isspace() and one not in INFORMATION_SEPARATORS for one in text)
    return not blank and len(text) <= MAX_ID_LENGTH
