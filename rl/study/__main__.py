"""python -m rl.study: joint training against separate modules (docs/experiments.md).

python -m rl.study --seeds 0,1,2 --systems main      the same as evaluate.py --compare ...

It takes hours; the same command goes on after a stop.
"""

from rl.runs.flags import main, parse
from rl.study.study import StudyArgs, compare

if __name__ == "__main__":
    main(lambda: compare(parse(StudyArgs, __doc__)))
