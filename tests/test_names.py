import pytest

from miner.names import split_of


@pytest.mark.parametrize(
    ("path", "member", "split"),
    [
        ("data/imagenet1k-train-0000.tar", "", "train"),
        ("data/imagenet1k-validation-00.tar", "", "val"),
        ("imagenet/val/00000.tar", "", "val"),
        ("imagenet/Test/00000.tar", "", "test"),
        ("imagenet_train.v2/train_01.tar", "", "train"),
        # The shard's own name wins over its folder's.
        ("train/val-00000.tar", "", "val"),
        ("imagenet", "train/n01440764/a.JPEG", "train"),
        ("imagenet/val", "n01440764/a.JPEG", "val"),
        ("imagenet", "n01440764/train.JPEG", None),
        ("trainstation/00000.tar", "", None),
        ("data/imagenet-sample-000000.tar", "", None),
        ("train/laion/00000.tar", "", None),
        ("", "", None),
    ],
)
def test_split_of_a_shard(path: str, member: str, split: str | None) -> None:
    assert split_of([part for part in path.split("/") if part], member) == split
