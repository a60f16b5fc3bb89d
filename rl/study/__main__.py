"""python -m rl.study: joint training against separate modules (docs/experiments.md).

python -m rl.study --seeds 0,1,2 --systems main      the same as evaluate.py --compare ...
python -m rl.study play --out runs/study/seed-0/eval  one seed's part of it, with every rank

It takes hours; the same command goes on after a stop.
"""

import sys

from rl.runs.flags import main, parse
from rl.runs.launch import launch
from rl.study.play import PlayArgs, play
from rl.study.study import StudyArgs, compare


def study() -> None:
    if sys.argv[1:2] == ["play"]:
        args = parse(PlayArgs, __doc__, sys.argv[2:])
        launch(args.ranks, args.device)
        play(args)
    else:
        compare(parse(StudyArgs, __doc__))


if __name__ == "__main__":
    main(study)
