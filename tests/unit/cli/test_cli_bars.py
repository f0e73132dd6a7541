"""Progress bars: one for all, one for each file that moves, and none where nobody looks."""

from __future__ import annotations

import io

from rich.console import Console

from reeltune_cli.bars import transfer_bars


def test_each_file_that_moves_has_a_bar_and_all_have_one() -> None:
    with transfer_bars(Console(file=io.StringIO(), force_terminal=True, width=100), "uploaded") as bars:
        bars.begin(3, 300)
        bars.begin_file("a.mp4", 100)
        bars.begin_file("b.mp4", 100)
        bars.advance("a.mp4", 60)
        bars.advance("b.mp4", 30)
        tasks = {task.description.strip(): task.completed for task in bars._progress.tasks}
        assert tasks == {"uploaded 0/3 files": 90, "a.mp4": 60, "b.mp4": 30}
        bars.advance("a.mp4", 40)
        bars.end_file("a.mp4")
        tasks = {task.description.strip(): task.completed for task in bars._progress.tasks}
        assert tasks == {"uploaded 1/3 files": 130, "b.mp4": 30}


def test_nothing_is_drawn_where_there_is_no_terminal() -> None:
    written = io.StringIO()
    with transfer_bars(Console(file=written), "uploaded") as bars:
        bars.begin(1, 10)
        bars.begin_file("a.mp4", 10)
        bars.advance("a.mp4", 10)
        bars.end_file("a.mp4")
    assert written.getvalue().strip() == ""
