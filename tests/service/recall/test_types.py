from dataclasses import fields, replace

from service.recall.types import Query


def test_a_query_with_a_history_keeps_all_other_fields() -> None:
    given = Query("ann", [], ["x"], 7, 2, 30.0, True, b"{}", ["click"], "like", b"{}", ["o"], True)
    unlike_defaults = [getattr(given, one.name) != one.default for one in fields(Query)]
    assert all(unlike_defaults), "give every field a value here that is not its default"
    found = given.with_history(["a"], ["b"], ["view"], ["p"])
    assert found == replace(given, history=["a"], exclude=["b"], actions=["view"], offers=["p"])
    assert given.history == []
