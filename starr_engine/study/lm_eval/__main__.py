"""``python -m starr_engine.study.lm_eval``: the harness's command, which then knows the engine."""

import sys

from starr_engine.errors import StarrError
from starr_engine.study.lm_eval.registration import run_harness

if __name__ == "__main__":
    try:
        run_harness(sys.argv[1:])
    except StarrError as error:
        sys.exit(f"starr-engine lm-eval: {error}")
