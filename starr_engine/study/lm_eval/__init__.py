"""lm-evaluation-harness: its tasks on this engine, and its tasks in a study.

Importing this package makes the model ``starr_engine`` known to ``lm_eval``.
"""

from starr_engine.study.lm_eval.registration import register

register()
