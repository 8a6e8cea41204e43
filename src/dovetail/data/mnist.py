"""MNIST and Fashion-MNIST: 60,000 + 10,000 grey images of 28 x 28 in ten classes.

LeCun, Bottou, Bengio, Haffner. Gradient-based learning applied to document recognition. Proc. IEEE 1998.
Xiao, Rasul, Vollgraf. Fashion-MNIST. 2017. arXiv:1708.07747 (Copyright 2017 Zalando SE, MIT licence)
"""

from __future__ import annotations

from dovetail.data.augment import ShiftAndFlip
from dovetail.data.dataset import Dataset, Split, hold_out
from dovetail.data.idx import IdxSource
from dovetail.data.task import Classification

MNIST = IdxSource(
    name="mnist",
    folder="mnist",
    url="https://ossci-datasets.s3.amazonaws.com/mnist/",
    sha256={
        "train-images-idx3-ubyte.gz": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte.gz": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte.gz": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte.gz": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
)
FASHION_MNIST = IdxSource(
    name="fashion_mnist",
    folder="fashion-mnist",
    url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    sha256={
        "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
)


def mnist() -> Dataset:
    """Handwritten digits: 55,000 + 5,000 + 10,000 grey images of 28 x 28."""
    whole, test = MNIST.splits()
    train, validation = hold_out(whole)
    return Dataset(
        name="mnist",
        task=Classification(),
        train=train,
        validation=validation,
        test=test,
        input_shape=(1, 28, 28),
        classes=tuple("0123456789"),
        mean=(0.1307,),
        std=(0.3081,),
        augment=ShiftAndFlip(shift=2, flip=False),
    )


def fashion_mnist() -> Dataset:
    """Pieces of clothing: 55,000 + 5,000 + 10,000 grey images of 28 x 28."""
    whole, test = FASHION_MNIST.splits()
    train, validation = hold_out(whole)
    return fashion_dataset("fashion_mnist", train, validation, test)


def fashion_dataset(name: str, train: Split, validation: Split, test: Split) -> Dataset:
    """Fashion-MNIST's task and preprocessing around these splits."""
    return Dataset(
        name=name,
        task=Classification(),
        train=train,
        validation=validation,
        test=test,
        input_shape=(1, 28, 28),
        classes=(
            "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"
        ),
        mean=(0.2860,),
        std=(0.3530,),
        augment=ShiftAndFlip(shift=2, flip=True),
    )  # fmt: skip
