"""Configs: the table of keys, their rules, config files, and what may change in a run.

`default_config()` has every default, `load("digits")` is a shipped config, and `validate` returns a checked copy.
"""

from ddx.config.files import load as load
from ddx.config.values import adjustments as adjustments
from ddx.config.values import all_changes as all_changes
from ddx.config.values import check_key as check_key
from ddx.config.values import check_keys as check_keys
from ddx.config.values import completed as completed
from ddx.config.values import default_config as default_config
from ddx.config.values import differences as differences
from ddx.config.values import flatten as flatten
from ddx.config.values import from_json as from_json
from ddx.config.values import head_config as head_config
from ddx.config.values import named_run as named_run
from ddx.config.values import set_network as set_network
from ddx.config.values import to_json as to_json
from ddx.config.values import told as told
from ddx.config.values import validate as validate
