"""Networks on CIFAR-10, full batch and without augmentation."""

from sharpflow.experiments.problems.images import (
    HELD_OUT,
    HeldOut,
    chosen_images,
    image_record,
    pooled,
)
from sharpflow.models import mlp, resnet20, vgg, vgg11, vit_small
from sharpflow.models.arguments import COUNT, FLAG, PATH, SEED, checked, optional
from sharpflow.models.problem import Problem


@checked(
    root=PATH,
    num_images=optional(COUNT),
    num_test_images=optional(COUNT),
    held_out=HELD_OUT,
    sample_seed=SEED,
    download=FLAG,
    pool=COUNT,
)
def mlp_cifar10(
    root: str = "data",
    *,
    num_images: int | None = 1000,
    num_test_images: int | None = None,
    held_out: HeldOut = "test",
    sample_seed: int = 0,
    download: bool = False,
    pool: int = 1,
    widths: tuple[int, ...] = (128, 128),
    normalization: str = "batch",
    activation: str = "softplus",
    head: str | None = None,
    num_groups: int = 4,
    loss: str = "mse",
    label_smoothing: float = 0.1,
    logit_scale: float = 1.0,
    micro_batch: int | None = None,
    dtype: object = None,
) -> Problem:
    """Multilayer perceptron on images of CIFAR-10.

    Args:
      root, num_images, num_test_images, held_out, sample_seed, download: as of
        ``vgg11_cifar10``.
      pool: side of the squares of pixels whose means are taken: 2 makes images of 16 × 16, and a
        step four times as cheap. It must divide 32.
      widths, normalization, activation: as in ``mlp``.
      head, num_groups, loss, label_smoothing, logit_scale, micro_batch: as in ``mlp``.
      dtype: float32 or float64; by default that of jax.

    Returns:
      A Problem with the metrics of ``vgg11_cifar10``.

    Raises:
      FileNotFoundError: no images below ``root``.
      ValueError: more images than there are, another ``pool``, or what ``mlp`` refuses.
    """
    train, test = chosen_images(root, num_images, num_test_images, held_out, sample_seed, download)
    (x, y), (test_x, test_y) = train, test
    problem = mlp(
        pooled(x, pool),
        y,
        widths,
        normalization,
        activation,
        head=head,
        num_groups=num_groups,
        loss=loss,
        label_smoothing=label_smoothing,
        logit_scale=logit_scale,
        test=(pooled(test_x, pool), test_y),
        micro_batch=micro_batch,
        dtype=dtype,
    )
    return problem.with_source(image_record(train, test, held_out))


@checked(
    root=PATH,
    num_images=optional(COUNT),
    num_test_images=optional(COUNT),
    held_out=HELD_OUT,
    sample_seed=SEED,
    download=FLAG,
)
def vgg11_cifar10(
    root: str = "data",
    *,
    num_images: int | None = None,
    num_test_images: int | None = None,
    held_out: HeldOut = "test",
    sample_seed: int = 0,
    download: bool = False,
    width: float = 1.0,
    normalization: str = "batch",
    activation: str = "softplus",
    pooling: str = "mean",
    head: str | None = None,
    num_groups: int = 4,
    loss: str = "mse",
    label_smoothing: float = 0.1,
    logit_scale: float = 1.0,
    micro_batch: int | None = None,
    dtype: object = None,
) -> Problem:
    """VGG-11 on the images of CIFAR-10 that are found.

    Args:
      root: folder with ``cifar-10-batches-bin`` or its files, whole or in part.
      num_images: trained on, equally many of each class; all that are there by default.
      num_test_images: that the metrics ``test_…`` are of, so; all that are there by default.
      held_out: what those are: ``"test"`` images, or for the choice of settings
        ``"validation"`` images, of the training files and not trained on.
      sample_seed: of the choice of those images.
      download: fetch the archive into ``root`` where nothing is there.
      width, normalization, activation, pooling: as in ``vgg11``.
      head, num_groups, loss, label_smoothing, logit_scale, micro_batch: as in ``mlp``.
      dtype: float32 or float64; by default that of jax.

    Returns:
      A Problem with metrics ``train_accuracy``, ``test_accuracy`` and ``test_error``, or
      ``test_loss`` for the cross-entropy.

    Raises:
      FileNotFoundError: no images below ``root``.
      ValueError: more images than there are, or what ``vgg11`` refuses.
    """
    train, test = chosen_images(root, num_images, num_test_images, held_out, sample_seed, download)
    x, y = train
    problem = vgg11(
        x,
        y,
        width,
        normalization,
        activation,
        pooling=pooling,
        head=head,
        num_groups=num_groups,
        loss=loss,
        label_smoothing=label_smoothing,
        logit_scale=logit_scale,
        test=test,
        micro_batch=micro_batch,
        dtype=dtype,
    )
    return problem.with_source(image_record(train, test, held_out))


@checked(
    root=PATH,
    num_images=optional(COUNT),
    num_test_images=optional(COUNT),
    held_out=HELD_OUT,
    sample_seed=SEED,
    download=FLAG,
    pool=COUNT,
)
def vgg_cifar10(
    root: str = "data",
    *,
    num_images: int | None = 1000,
    num_test_images: int | None = None,
    held_out: HeldOut = "test",
    sample_seed: int = 0,
    download: bool = False,
    pool: int = 1,
    channels: tuple[int, ...] = (16, 0, 32, 0, 64, 0),
    normalization: str = "batch",
    activation: str = "softplus",
    pooling: str = "mean",
    head: str | None = None,
    num_groups: int = 4,
    loss: str = "mse",
    label_smoothing: float = 0.1,
    logit_scale: float = 1.0,
    micro_batch: int | None = None,
    dtype: object = None,
) -> Problem:
    """A network built as VGG is on images of CIFAR-10, small enough for a CPU.

    Args:
      root, num_images, num_test_images, held_out, sample_seed, download: as of
        ``vgg11_cifar10``.
      pool: as of ``mlp_cifar10``.
      channels, normalization, activation, pooling: as in ``vgg``.
      head, num_groups, loss, label_smoothing, logit_scale, micro_batch: as in ``mlp``.
      dtype: float32 or float64; by default that of jax.

    Returns:
      A Problem with the metrics of ``vgg11_cifar10``.

    Raises:
      FileNotFoundError: no images below ``root``.
      ValueError: more images than there are, another ``pool``, or what ``vgg`` refuses.
    """
    train, test = chosen_images(root, num_images, num_test_images, held_out, sample_seed, download)
    (x, y), (test_x, test_y) = train, test
    problem = vgg(
        pooled(x, pool),
        y,
        channels,
        normalization,
        activation,
        pooling=pooling,
        head=head,
        num_groups=num_groups,
        loss=loss,
        label_smoothing=label_smoothing,
        logit_scale=logit_scale,
        test=(pooled(test_x, pool), test_y),
        micro_batch=micro_batch,
        dtype=dtype,
    )
    return problem.with_source(image_record(train, test, held_out))


@checked(
    root=PATH,
    num_images=optional(COUNT),
    num_test_images=optional(COUNT),
    held_out=HELD_OUT,
    sample_seed=SEED,
    download=FLAG,
)
def resnet20_cifar10(
    root: str = "data",
    *,
    num_images: int | None = None,
    num_test_images: int | None = None,
    held_out: HeldOut = "test",
    sample_seed: int = 0,
    download: bool = False,
    width: float = 1.0,
    normalization: str = "batch",
    activation: str = "softplus",
    head: str | None = None,
    num_groups: int = 4,
    loss: str = "mse",
    label_smoothing: float = 0.1,
    logit_scale: float = 1.0,
    micro_batch: int | None = None,
    dtype: object = None,
) -> Problem:
    """ResNet-20 on the images of CIFAR-10 that are found.

    Args:
      root, num_images, num_test_images, held_out, sample_seed, download: as of
        ``vgg11_cifar10``.
      width, normalization, activation: as in ``resnet20``.
      head, num_groups, loss, label_smoothing, logit_scale, micro_batch: as in ``mlp``.
      dtype: float32 or float64; by default that of jax.

    Returns:
      A Problem with the metrics of ``vgg11_cifar10``.

    Raises:
      FileNotFoundError: no images below ``root``.
      ValueError: more images than there are, or what ``resnet20`` refuses.
    """
    train, test = chosen_images(root, num_images, num_test_images, held_out, sample_seed, download)
    x, y = train
    problem = resnet20(
        x,
        y,
        width,
        normalization,
        activation,
        head=head,
        num_groups=num_groups,
        loss=loss,
        label_smoothing=label_smoothing,
        logit_scale=logit_scale,
        test=test,
        micro_batch=micro_batch,
        dtype=dtype,
    )
    return problem.with_source(image_record(train, test, held_out))


@checked(
    root=PATH,
    num_images=optional(COUNT),
    num_test_images=optional(COUNT),
    held_out=HELD_OUT,
    sample_seed=SEED,
    download=FLAG,
    pool=COUNT,
)
def vit_small_cifar10(
    root: str = "data",
    *,
    num_images: int | None = None,
    num_test_images: int | None = None,
    held_out: HeldOut = "test",
    sample_seed: int = 0,
    download: bool = False,
    pool: int = 1,
    width: float = 1.0,
    normalization: str = "layer",
    activation: str = "gelu",
    depth: int = 12,
    patch: int = 4,
    head: str | None = None,
    num_groups: int = 4,
    loss: str = "mse",
    label_smoothing: float = 0.1,
    logit_scale: float = 1.0,
    micro_batch: int | None = None,
    dtype: object = None,
) -> Problem:
    """ViT-small on the images of CIFAR-10 that are found.

    Args:
      root, num_images, num_test_images, held_out, sample_seed, download: as of
        ``vgg11_cifar10``.
      pool: as of ``mlp_cifar10``.
      width, normalization, activation, depth, patch: as in ``vit_small``.
      head, num_groups, loss, label_smoothing, logit_scale, micro_batch: as in ``mlp``.
      dtype: float32 or float64; by default that of jax.

    Returns:
      A Problem with the metrics of ``vgg11_cifar10``.

    Raises:
      FileNotFoundError: no images below ``root``.
      ValueError: more images than there are, another ``pool``, or what ``vit_small`` refuses.
    """
    train, test = chosen_images(root, num_images, num_test_images, held_out, sample_seed, download)
    (x, y), (test_x, test_y) = train, test
    problem = vit_small(
        pooled(x, pool),
        y,
        width,
        normalization,
        activation,
        depth=depth,
        patch=patch,
        head=head,
        num_groups=num_groups,
        loss=loss,
        label_smoothing=label_smoothing,
        logit_scale=logit_scale,
        test=(pooled(test_x, pool), test_y),
        micro_batch=micro_batch,
        dtype=dtype,
    )
    return problem.with_source(image_record(train, test, held_out))
