"""Output times: padded so that one program serves many, but not at any price."""

import numpy as np
import pytest

from sharpflow.theory.times import last_reached, padded_times, validated_times


def test_numbers_of_outputs_up_to_a_power_of_two_share_a_length():
    assert [padded_times(np.arange(n), 10).size for n in (1, 3, 16, 17, 32, 33)] == [
        16, 16, 16, 32, 32, 64,
    ]  # fmt: skip


def test_times_that_the_precision_of_the_params_does_not_tell_apart_are_refused():
    times = [0.0, 1.0, 1.0 + 1e-9]
    np.testing.assert_array_equal(validated_times(times), times)
    with pytest.raises(
        ValueError, match=r"tau\[2\] = 1.000000001 follows tau\[1\] = 1.0, .* float32"
    ):
        validated_times(times, np.float32)


def test_padding_repeats_the_last_time():
    times = np.array([0.0, 0.5, 2.0])
    padded = padded_times(times, 10)
    np.testing.assert_array_equal(padded[:3], times)
    assert set(padded[3:]) == {2.0}


def test_padding_that_would_take_much_memory_is_left_out():
    times = np.linspace(0.0, 1.0, 3)
    assert padded_times(times, 10_000_000) is times


def test_the_last_time_reached_is_that_of_the_last_finite_row():
    times = np.array([0.0, 1.0, 2.0])
    assert last_reached(times, np.array([3.0, 4.0, np.nan])) == 1.0
    assert np.isnan(last_reached(times, np.full(3, np.nan)))
