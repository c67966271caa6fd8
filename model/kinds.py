"""The kinds of attributes that items have.

kind         values in items.parquet      in text files
category     string                       one of a number of names
categories   list of strings              names with `|` between them
number       integer or float             decimal digits, perhaps with a sign and an exponent
time         date, or datetime in UTC     ISO 8601, without a zone: UTC
flag         boolean                      true or false, yes or no, 1 or 0
text         any other, as it stands      titles, descriptions, addresses of pictures

A filter can ask for every kind but text. Front ends import this module, so it loads no library.
"""

from typing import Literal, get_args

Kind = Literal["category", "categories", "number", "time", "flag", "text"]
KINDS: tuple[Kind, ...] = get_args(Kind)

TRUE_WORDS = ("true", "yes", "1", "t", "y")
FALSE_WORDS = ("false", "no", "0", "f", "n")
"""Words for the values of a flag, in lower case; words at the same place belong together."""
