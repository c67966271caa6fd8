from tiny import query_batch, ragged

from service.recall.query_batch import quota_table


def test_selected_lists_are_padded_on_the_right() -> None:
    lists = ragged([[1, 2], [], [3], [4, 5, 6]])
    assert lists.lengths_B.tolist() == [2, 0, 1, 3]
    padded = lists.padded(lists.lengths_B.nonzero()[0], 3, padding=-1)
    assert padded.tolist() == [[1, 2, -1], [3, -1, -1], [4, 5, 6]]


def test_quotas_of_fewer_interests_are_zero_behind() -> None:
    assert quota_table([(5,), (3, 2), (2, 2, 1)]).tolist() == [[5, 3, 2], [0, 2, 2], [0, 0, 1]]


def test_steps_are_those_of_the_queries_with_a_history() -> None:
    batch = query_batch([[1], [], [2]], [(5,), (2, 2, 1), (3, 2)])
    steps = list(batch.steps())  # the third interest is of a cold query only
    assert [step.interest for step in steps] == [0, 1]
    assert [step.last for step in steps] == [False, True]
    assert [step.queries_W.tolist() for step in steps] == [[0, 2]] * 2
    assert [step.quotas_W.tolist() for step in steps] == [[5, 3], [0, 2]]


def test_a_batch_of_cold_queries_has_no_steps() -> None:
    assert list(query_batch([[], []], [(5,), (3, 2)]).steps()) == []
