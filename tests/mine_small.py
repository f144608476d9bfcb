"""The `blindpairs` command with two small seeded encoders in its registry.

python -m tests.mine_small mine SHARD... --clip small-clip --dino small-dino ...
"""

from miner.registry import REGISTRY
from pipelines.cli import main
from tests.towers import clip_record, dino_record

for record in (clip_record(), dino_record()):
    REGISTRY[record.name] = record

if __name__ == "__main__":
    main()
