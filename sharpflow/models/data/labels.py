"""Classes: which labels may occur, and what they are called."""

from collections.abc import Collection, Sequence

import numpy as np

from sharpflow.models.arguments import shown

# Far beyond any data set, and still a second's work. A number of examples that was given by mistake
# for one of classes may be a billion, which would fill the memory with names.
_MOST_CLASSES = 1_000_000  # each takes a name, and a column of the targets


def require_labels(labels: np.ndarray, classes: Collection[int], where: str) -> None:
    """Refuse labels that are not among the classes.

    Args:
      labels: shape (n,).
      classes: the labels that may occur.
      where: the file or argument, for the error.

    Raises:
      ValueError: naming the first such label and its place.
    """
    wrong = np.flatnonzero(~np.isin(labels, list(classes)))
    if wrong.size:
        raise ValueError(
            f"{where}: the label of record {wrong[0]} is {labels[wrong[0]]}, "
            f"which is not a class from {min(classes)} to {max(classes)}"
        )


def named_classes(classes: int | Sequence[str] | None, labels: np.ndarray) -> dict[int, str]:
    """Label to name of every class that may occur.

    Args:
      classes: the names of 0, 1, …, or how many there are; None takes those that occur.
      labels: shape (n,).

    Raises:
      ValueError: no class at all, or more than any data set has.
    """
    if classes is None:
        return {int(label): str(label) for label in np.unique(labels)}
    if isinstance(classes, (int, np.integer)) and classes > _MOST_CLASSES:
        raise ValueError(f"classes must be at most {_MOST_CLASSES}, got {classes}")
    if isinstance(classes, (int, np.integer)) and classes >= 1:
        return {label: str(label) for label in range(classes)}
    if not isinstance(classes, Sequence) or isinstance(classes, str) or not classes:
        raise ValueError(
            f"classes must be a count or a sequence of names, at least one, got {shown(classes)}"
        )
    return dict(enumerate(classes))


CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
)  # fmt: skip

FASHION_MNIST_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

CIFAR100_COARSE_CLASSES = (
    "aquatic_mammals", "fish", "flowers", "food_containers", "fruit_and_vegetables",
    "household_electrical_devices", "household_furniture", "insects", "large_carnivores",
    "large_man-made_outdoor_things", "large_natural_outdoor_scenes",
    "large_omnivores_and_herbivores", "medium_mammals", "non-insect_invertebrates",
    "people", "reptiles", "small_mammals", "trees", "vehicles_1", "vehicles_2",
)  # fmt: skip

CIFAR100_FINE_CLASSES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle",
    "bottle", "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle",
    "caterpillar", "cattle", "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch",
    "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest",
    "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower",
    "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain",
    "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear",
    "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine", "possum",
    "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew",
    "skunk", "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar",
    "sunflower", "sweet_pepper", "table", "tank", "telephone", "television", "tiger",
    "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree",
    "wolf", "woman", "worm",
)  # fmt: skip
