"""A run that is killed goes on as if it had not been, wherever the kill hits."""

from pathlib import Path

import pytest
from filesystem import Tree, write_tree
from scenarios import differences


def _resumed(scenario, states: list[Tree], folder: Path) -> list[str]:
    """What is wrong after each of these states was resumed."""
    wrong = []
    for number, state in enumerate(states):
        run = folder / str(number)
        write_tree(run, state)
        try:
            found = differences(scenario.run(run), scenario.result)
        except Exception as error:  # told with the state it comes from
            found = [repr(error)]
        found += [f"left {path.name}" for path in run.rglob("*.partial")]
        if found:
            wrong.append(f"state {number} of {len(states)}: {found}; {sorted(state)[-5:]}")
    return wrong


@pytest.mark.parametrize(("name", "few"), [("short", 40), ("every_kind", 12)])
def test_a_kill_between_any_two_changes_to_the_folder_loses_no_bit(
    name, few, request, tmp_path, soaking, say
):
    scenario = request.getfixturevalue(name)
    states = scenario.states
    some = states if soaking else states[:: len(states) // few]
    assert _resumed(scenario, some, tmp_path / "resumed") == []
    if soaking:
        say(f"{name}: killed before each of {len(states)} changes: all bit-identical")
