"""Mine ImageNet, train and validation.

    python pipelines/mine_imagenet.py --out DIR
    ray job submit --working-dir . -- python pipelines/mine_imagenet.py --out s3://BUCKET/DIR
    ray submit pipelines/cluster/aws.yaml pipelines/mine_imagenet.py -- --out s3://BUCKET/DIR

This file may be copied anywhere; it needs the installed package, and no file beside it.
"""

from pipelines.cli import main
from pipelines.corpora import Corpus, corpus_command

HOME = "hf://datasets/timm/imagenet-1k-wds"

IMAGENET = Corpus(
    name="mine_imagenet.py",
    about=f"""Mine ImageNet: the whole run of `blindpairs mine` with its defaults.

    Without a SHARD, those of {HOME} are taken, train and validation; the hub asks you to accept its
    terms and to log in first. The class becomes `label` of every sample, and the split is in its
    `meta`. `--labels same` selects pairs within a class, `--labels different` across classes.""",
    defaults={"dataset": "imagenet"},
    shards=(
        f"{HOME}/imagenet1k-train-{{0000..1023}}.tar",
        f"{HOME}/imagenet1k-validation-{{00..63}}.tar",
    ),
)

mine_imagenet = corpus_command(IMAGENET)

if __name__ == "__main__":
    main(command=mine_imagenet, name=IMAGENET.name)
