"""Numbers of features that are scaled by one factor."""


def scaled(
    features: tuple[int, ...], width: float, normalization: str, num_groups: int
) -> tuple[int, ...]:
    """``width`` times each number, rounded, at least 1; of groups, a multiple of their number.

    Raises:
      ValueError: a width that is not positive.
    """
    if not width > 0.0:
        raise ValueError(f"width must be positive, got {width}")
    unit = num_groups if normalization == "group" else 1
    # At least one unit of each, because a narrow network for a test may ask for less than one
    # feature; 0 stands for pooling in VGG and stays.
    return tuple(
        max(round(width * number / unit), 1) * unit if number else 0 for number in features
    )
