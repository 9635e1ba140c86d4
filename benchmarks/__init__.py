"""Speed and memory, as ratios and figures of one run; never timed tests."""
