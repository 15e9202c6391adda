"""Wrong values of the fields of a header: for the tests of wrong fields, and for the campaign of faults."""

from typing import Any

CROP = {"recipe": "resized_crop_flip", "version": 1, "seed": 0, "count": 2, "image_px": 8}
BUDGET = {"rule": "sure", "mean": "2", "first_views": 3, "temperature": 1.0, "labels": 12, "least": 2, "most": 2}
WRONG_BUDGETS = [("first_views", 0), ("temperature", -1.0), ("labels", -1), ("least", 0), ("most", 65), ("most", "x")]
REFUSED: dict[str, list[Any]] = {
    "teacher.preprocessing.image_px": [0, -1, 9, 20_000, 65_535, 2**40, None, 1.5],
    "teacher.preprocessing.resize_px": [0, 7, 20_000, 2**40],
    "teacher.preprocessing.mean": [[], [0.5] * 2, [0.5], [0.5] * 4, [1e308] * 3, [None] * 3, "x"],
    "teacher.preprocessing.std": [[], [0.5] * 2, [0.5], [0.0] * 3, [-1.0] * 3, [1e-320] * 3, ["nan"] * 3],
    "teacher.output_map": [[], [0, 1], [0, 1, 2**40], [-1, 0, 1], [0] * 1000, "x"],
    "teacher.output_groups": [[], [[0], [1], []], [[0], [1]], [[0], [1], [-1]], [[0], [1], [10**30]]],
    "teacher.train_top1": [-1, 2, 1e308, None],
    "labels.class_std": [[0.0] * 3, [0.5] * 2, [0.5] * 1000, [1.0, 1.0, -1.0]],
    "labels.views": [1001, -1, 10**9],
    "labels.top_k": [0, 3, 10**9],
    "labels.budget": [{}, [], "x", *({**BUDGET, name: value} for name, value in WRONG_BUDGETS)],
    "labels.parameters": [[], None, "x"],
    "views.count": [0, -1, 1001, 10**9],
    "views.pad_px": [-1, 10**9, 2**70, "x", [], 1.5, True],
    "views.flip": ["x", 3, []],
    "views.image_px": [0, 20_000, 65_535],
    "views.max_side": [0, 10**9],
    "views.top_k": [0, 3, 10**9],
    "views": [CROP | {name: value} for name in ("scale_min", "scale_max", "ratio_min") for value in (-1, 1e308, "x")],
    "data.class_names": [[], ["a", "b", "a"], [""] * 3, "x", None],
    "data.count": [-1, 8193, 10**12],
    "data.labels_from": ["x", "", 3],
    "selection.count": [-1, 14, 10**9],
    "thumbnails": [{"side_px": 0}, {"side_px": 10**9}],
    "features": [{"layer": "fc", "width": 0}, {"layer": "fc", "width": 10**12}],
    "config": [[], None, "x"],
    "run": [[], None, "x"],
}  # fmt: skip
"""By field, values that no command takes."""
SHOWN: dict[str, list[Any]] = {
    "data.class_names": [[str(number) for number in range(20_000)], ["a"]],
    "data.count": [0, 12, 14],
    "labels.views": [0, 1, 3, 999],
    "views.count": [1, 3, 999],
    "config": [{"max_side": "x", "beton": True}, {"max_side": -5, "beton": True}, {"copy": 3}, {"command": []}],
    "run": [{"seconds": "x"}, {"parent_run": 3}, {"training_seconds": "x"}, {"views_top1": "x"}],
}
"""By field, values that stand against the tables or mean nothing: the commands that use them refuse them."""
