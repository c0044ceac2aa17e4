from cellwright.widgets.train.view import scores_table


def test_scores_that_became_worse_are_marked() -> None:
    table = scores_table({"ap50": 0.5, "count_error": 0.1}, {"ap50": 0.6, "count_error": 0.2})
    better, worse = table.split("<tr>")[2:]
    assert "#3fd0c9" in better
    assert "#e07a6b" in worse
