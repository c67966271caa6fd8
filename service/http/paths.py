"""The ids in paths. They are any text, and may hold slashes and line breaks."""

from starlette.convertors import PathConvertor, register_url_convertor


class IdConvertor(PathConvertor):
    """Takes any text: that of Starlette's `path` ends at a line break."""

    regex = "(?s:.*)"


register_url_convertor("id", IdConvertor())

USER = "/users/{user_id:id}"
ITEM = "/items/{item_id:id}"
