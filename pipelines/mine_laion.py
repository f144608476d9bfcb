"""Mine LAION, as img2dataset downloads it.

    python pipelines/mine_laion.py SHARD... --out DIR
    ray job submit --working-dir . -- python pipelines/mine_laion.py SHARD... --out s3://BUCKET/DIR
    ray submit pipelines/cluster/aws.yaml pipelines/mine_laion.py -- SHARD... --out s3://BUCKET/DIR

This file may be copied anywhere; it needs the installed package, and no file beside it.
"""

from pipelines.cli import main
from pipelines.corpora import Corpus, corpus_command

LAION = Corpus(
    name="mine_laion.py",
    about="""Mine LAION (Re-LAION too): the whole run of `blindpairs mine` with its defaults.

    A shard is NNNNN.tar as img2dataset writes it, with NNNNN.parquet beside it. Columns that it
    carries, such as similarity, punsafe, pwatermark and NSFW, are kept in `meta` of every sample.
    Images that LAION itself rates unsafe (punsafe above 0.5) are excluded before they are decoded.
    Unrated ones stay, and are counted; `--unrated exclude` leaves them out.""",
    defaults={"dataset": "laion", "max_punsafe": 0.5, "unrated": "keep"},
)

mine_laion = corpus_command(LAION)

if __name__ == "__main__":
    main(command=mine_laion, name=LAION.name)
