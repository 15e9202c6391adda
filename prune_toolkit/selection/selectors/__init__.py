"""The selectors: each decides which samples of each class to keep, and why. One line imports each.

Every selector ranks the samples of a group (a class, or everything under quota `none`) and keeps exactly the number
the quota gives. Ties are broken by content hash, then by key, so the outcome depends on neither row order nor the
order of equal scores, and duplicated images never change the count.
"""

from prune_toolkit.selection.pool import REASONS, Choice, Pool
from prune_toolkit.selection.selector import SELECTORS, choose, make_groups, selector

from prune_toolkit.selection.selectors import medium as medium  # isort: skip
from prune_toolkit.selection.selectors import window as window  # isort: skip
from prune_toolkit.selection.selectors import random as random  # isort: skip
from prune_toolkit.selection.selectors import ccs as ccs  # isort: skip
from prune_toolkit.selection.selectors import moderate as moderate  # isort: skip
from prune_toolkit.selection.selectors import herding as herding  # isort: skip
from prune_toolkit.selection.selectors import k_center as k_center  # isort: skip
from prune_toolkit.selection.selectors import d2 as d2  # isort: skip
from prune_toolkit.selection.selectors import beta as beta  # isort: skip
from prune_toolkit.selection.selectors import mix as mix  # isort: skip

__all__ = ["REASONS", "SELECTORS", "Choice", "Pool", "choose", "make_groups", "selector"]
