"""The limit of ids, which data preparation and the service share."""

MAX_ID_LENGTH = 512
"""Characters of the longest id of a user or an item."""
