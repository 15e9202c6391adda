"""The front door: docs/python.md run as one script, and its functions against the commands."""

import inspect
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import prune_toolkit as pt
from manifests.errors import IncompleteError, InputError, MismatchError, UsageError
from manifests.sources import open_source
from prune_toolkit.api.train import TrainOptions
from prune_toolkit.main import COMMANDS, cli
from prune_toolkit.scoring.score import SCORES
from prune_toolkit.selection.selectors import SELECTORS
from trainer.cli.train_student import train_student

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EACH = {"train": 30, "test": 10}
HEAVY = {"torch", "torchvision", "numpy", "pandas", "pyarrow", "pydantic", "ffcv", "numba"}


@pytest.fixture(scope="module", autouse=True)
def registered():
    """Forgets at the end what was registered here: tests of other files compare processes that lack it."""
    before = [(registry, set(registry)) for registry in (SCORES, SELECTORS)]
    yield
    for registry, names in before:
        for name in set(registry) - names:
            registry.forget(name)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with `photos`: small real images in train/CLASS and test/CLASS."""
    folder = tmp_path_factory.mktemp("door")
    for split, each in EACH.items():
        digits = open_source("demo:digits", split=split)
        for label, name in enumerate(digits.class_names):
            (folder / "photos" / split / name).mkdir(parents=True)
            rows = np.flatnonzero(digits.labels_N == label)[:each].tolist()
            for row, image in zip(rows, digits.read(rows), strict=True):
                Image.fromarray(image.array.squeeze()).save(folder / "photos" / split / name / f"{row:04d}.png")
    return folder


@pytest.fixture(scope="module")
def page(work):
    """The names of docs/python.md, and what the script printed, after all of its blocks ran in a notebook's folder."""
    code = "\n".join(BLOCK.findall((ROOT / "docs" / "python.md").read_text("utf-8")))
    names = {"__name__": "__main__"}
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        # Both loaders show the same views; FFCV's takes seconds to compile.
        patch.setattr("trainer.data.loaders.ffcv_available", lambda: (False, "not in this test"))
        exec(compile(code, "notebook", "exec"), names)
        yield names


@pytest.fixture
def at_work(work, page, monkeypatch):
    monkeypatch.chdir(work)
    return page


def child(code, folder, **options):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False, **options
    )


def test_the_exports_are_sorted_and_all_there():
    assert pt.__all__ == sorted(pt.__all__)
    assert dir(pt) == pt.__all__
    for name in pt.__all__:
        assert getattr(pt, name, None) is not None
    assert not hasattr(pt, "everything")


def test_importing_it_imports_nothing_heavy():
    code = "import sys, prune_toolkit; dir(prune_toolkit); print(*{name.partition('.')[0] for name in sys.modules})"
    assert not set(child(code, ROOT).stdout.split()) & HEAVY


def test_selecting_imports_no_torch():
    code = "import sys, prune_toolkit as pt; pt.select, pt.suspects, pt.index; print('torch' in sys.modules)"
    assert child(code, ROOT).stdout.strip() == "False"


def test_the_page_goes_from_images_to_a_student(at_work):
    manifest, selection, run = (at_work[name] for name in ("manifest", "selection", "run"))
    card = manifest.header.teacher
    assert card.spec == "__main__:Net"
    assert card.train_top1 > 0.9
    assert card.val_top1 > 0.7
    assert selection.header.selection.keep_asked == "0.5"
    assert run.metrics["epoch"] == len(run.history) == 3
    assert run.metrics["top1"] == run.history[-1]["val_top1"]
    weights = [run.student().state_dict(), pt.load_student("run/student.safetensors").state_dict()]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    of_folder = pt.load_student("run").state_dict()
    assert all(torch.equal(value, of_folder[name]) for name, value in weights[0].items())
    with pytest.raises(InputError, match=r"photos holds no student\.safetensors"):
        pt.load_student("photos")
    assert repr(manifest).startswith("<Manifest scores: 300 samples, 10 classes, teacher __main__:Net, id ")
    assert repr(selection).startswith("<Manifest selection: 150 of 300 samples")
    assert repr(run).startswith("<Run resnet8: 150 samples, 3 epochs, top-1 ")
    assert "300 of 300 samples match; nothing differs" in repr(at_work["report"])
    assert repr(at_work["difference"]).startswith("<Difference of selection ")
    assert repr(at_work["train_set"]) == "<PrunedDataset: 150 samples of 10 classes, 8x8 px, replay>"
    assert repr(at_work["student"]) == "<TrainedStudent resnet8: 8x8 px images, 10 classes>"


def test_story_the_hardest_images_of_a_class(at_work, work):
    hardest = at_work["hardest"]
    assert len(hardest) == 20
    assert hardest.loss.is_monotonic_decreasing
    for number, key in enumerate(hardest.key):
        assert key.startswith("train/3/")
        saved, original = Image.open(f"hardest-{number:02d}.png"), Image.open(work / "photos" / key)
        assert np.array_equal(np.asarray(saved.convert("L")), np.asarray(original))


def test_story_a_score_of_ones_own(at_work):
    scored, table = at_work["scored"], at_work["scored"].to_pandas()
    [(ids, logits)] = scored.logits()
    expected = np.sort(torch.tensor(logits.astype(np.float64)).softmax(1).numpy())[:, -2]
    np.testing.assert_allclose(table.doubt[ids], expected, rtol=1e-6)
    assert re.fullmatch(r"__main__ [0-9a-f]{12}", scored.header.config["scores"]["doubt"])
    chosen = at_work["doubtful"].to_pandas().join(table.doubt)
    for _, of_class in chosen.groupby("class_name"):
        assert of_class.doubt[of_class.keep].min() >= of_class.doubt[~of_class.keep].max()


def test_story_the_indices_that_were_kept(at_work):
    table = at_work["manifest"].to_pandas()
    assert len(at_work["kept"]) == 150
    assert set(at_work["chosen"].columns) == {"key", "label", "class_name", "keep", "reason"}
    assert (at_work["chosen"].reason[at_work["kept"]] == "kept").all()
    keys = at_work["selection"].samples().to_pandas().key
    assert (table.key == keys).all()
    assert at_work["half"][0][1] == table.label[at_work["kept"][0]]


def test_the_dataset_says_which_samples_it_shows(at_work):
    train_set, table = at_work["train_set"], at_work["manifest"].to_pandas()
    *_, label, sample_id, key = (train_set[3][position] for position in (0, 1, 5, 6))
    assert (table.key[sample_id], table.label[sample_id]) == (key, label)
    assert (train_set.sample_ids == at_work["kept"]).all()
    assert list(train_set.keys) == list(table.key[at_work["kept"]])
    assert len(pt.PrunedDataset(at_work["labelled"])[0]) == 5


def test_the_dataset_takes_an_image_size(at_work):
    larger = pt.PrunedDataset(at_work["selection"], image_px=16)
    assert larger[0][0].shape == (3, 16, 16)
    with pytest.raises(UsageError, match="8 px crops"):
        pt.PrunedDataset(at_work["labelled"], image_px=16)
    with pytest.raises(UsageError, match="at least 1"):
        pt.PrunedDataset(at_work["selection"], image_px=0)


def test_the_function_and_the_command_make_the_same_selection(at_work, tmp_path):
    words = ["select", "manifest", "--keep", "0.5", "--selector", "ccs", "--no-beton", "-o", str(tmp_path / "typed")]
    cli.main(words, standalone_mode=False)
    called = pt.select(at_work["manifest"], keep=0.5, selector="ccs", beton=False, out=tmp_path / "called")
    assert called.id == pt.Manifest.open(tmp_path / "typed").id


@pytest.mark.parametrize(
    ("keep", "text"),
    [(0.5, "0.5"), ("50%", "50%"), (Fraction(1, 3), "1/3"), (1, "1"), (np.float64(0.3), "0.3"), (1 / 3, repr(1 / 3))],
)
def test_keep_is_recorded_as_it_was_typed(at_work, tmp_path, keep, text):
    selection = pt.select("manifest", keep=keep, labels="raw", beton=False, out=tmp_path / "kept")
    assert selection.header.selection.keep_asked == text


NO_OPTIONS = {
    "rank", "world_size", "finish", "limit", "dry_run", "json", "threads", "pixels", "parameter", "plugin",
    "allow_mismatch", "list", "data_argument", "timeout",
}  # fmt: skip
"""What is of a shell: shares of the work, previews, output, and short forms; `Manifest.open` takes the timeout."""
OF_DATA_SPEC = {"config", "file_column", "split_column", "image_list", "unlabelled"}
"""What `pt.DataSpec` takes."""
POSITION = {"position", "mode", "sharpness", "beta", "strata", "mix"}
"""Parameters of selectors, which `select` takes as further keywords."""


COMMAND_OF = {"evaluate": "eval", "export_model": "export-model"}
"""Commands whose function has another name: that of the command is a builtin, or has a hyphen."""


@pytest.mark.parametrize(
    "name",
    ["diff", "evaluate", "export_model", "index", "label", "score", "select", "suspects", "train_student", "verify"],
)
def test_the_keywords_are_the_options_with_their_defaults(name):
    if name == "train_student":
        command = train_student
    else:
        assert COMMAND_OF.get(name, name) in COMMANDS
        command = cli.get_command(click.Context(cli), COMMAND_OF.get(name, name))
    typed = {}
    for parameter in command.params:
        long = [flag for flag in parameter.opts if flag.startswith("--")]
        typed[(long[0][2:] if long else parameter.name).replace("-", "_")] = parameter.to_info_dict()["default"]
    if name == "evaluate":
        typed["model"] = typed.pop("teacher")
    signature = inspect.signature(getattr(pt, name))
    taken = {key for key, entry in signature.parameters.items() if entry.kind is not entry.VAR_KEYWORD}
    taken |= set(TrainOptions.__annotations__) if name == "train_student" else set()
    batch = {"batch_size"} if name == "select" else set()
    assert taken - {"preprocessing"} - NO_OPTIONS == set(typed) - NO_OPTIONS - OF_DATA_SPEC - POSITION - batch
    for key, entry in signature.parameters.items():
        if typed.get(key) is not None and entry.default not in (None, ()):
            assert str(entry.default) == str(typed[key]), key


def test_images_may_be_described_with_all_options_of_the_shell(tmp_path):
    (tmp_path / "photos").mkdir()
    for row in range(4):
        Image.new("L", (8, 8), 40 * row).save(tmp_path / "photos" / f"{row}.png")
    (tmp_path / "list.csv").write_text("who,kind,part\n0,a,train\n1,b,train\n2,a,test\n3,b,test\n")
    images = pt.DataSpec(
        data=str(tmp_path / "photos"),
        list_file=str(tmp_path / "list.csv"),
        file_column="who",
        label="kind",
        split_column="part",
    )
    index = pt.index(images, out=tmp_path / "index", strict=True)
    assert index.samples().column("key").to_pylist() == ["0.png", "1.png"]
    assert index.header.data.read_as.labels == "the list list.csv"
    assert len(pt.index(images, split="test", out=tmp_path / "test").samples()) == 2


def test_a_keyword_that_nobody_knows_is_refused():
    with pytest.raises(TypeError, match="keyword argument 'temprature'; did you mean 'temperature'"):
        pt.train_student("selection", temprature=4)
    with pytest.raises(UsageError, match="epochs and steps contradict each other"):
        pt.train_student("selection", epochs=1, steps=2)


class Counting(nn.Module):
    """A teacher of 10 classes that is dropped out in training, and counts its passes through a hook."""

    def __init__(self, classes=10):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.BatchNorm1d(192), nn.Linear(192, classes))

    def forward(self, images):
        return self.body(images)


PREPROCESSING = pt.Preprocessing(image_px=8, resize_px=8, mean=[0.5] * 3, std=[0.25] * 3)


def test_a_module_is_left_as_it_was(at_work, tmp_path):
    module, seen = Counting().double(), []
    module.body[3].eval()
    module.body[2].register_forward_hook(lambda layer, *_: seen.append(layer.training))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    number = torch.random.get_rng_state()
    manifest = pt.score("photos", teacher=module, preprocessing=PREPROCESSING, out=tmp_path / "m")
    assert [layer.training for layer in module.body] == [True, True, True, False]
    assert seen
    assert not any(seen)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float64}
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert torch.equal(number, torch.random.get_rng_state())
    assert manifest.header.teacher.spec == f"{__name__}:Counting"
    same = pt.score("photos", teacher=module.float().eval(), preprocessing=PREPROCESSING, out=tmp_path / "same")
    assert same.id == manifest.id


def test_a_module_that_does_not_fit_is_refused_with_what_helps(at_work, tmp_path):
    with pytest.raises(UsageError, match="does not say how it wants its images"):
        pt.score("photos", teacher=Counting(), out=tmp_path / "m")
    with pytest.raises(InputError, match="the teacher has 7 outputs, the data set has 10 classes"):
        pt.score("photos", teacher=Counting(7), preprocessing=PREPROCESSING, out=tmp_path / "m")
    larger = PREPROCESSING.model_copy(update={"image_px": 16, "resize_px": 16})
    with pytest.raises(InputError, match="does not take 3x16x16 images"):
        pt.score("photos", teacher=Counting(), preprocessing=larger, out=tmp_path / "m")
    with pytest.raises(UsageError, match="leave out checkpoint"):
        pt.score("photos", teacher=Counting(), preprocessing=PREPROCESSING, checkpoint="x.pth", out=tmp_path / "m")
    odd = pt.Preprocessing(image_px=8, resize_px=8, mean=[0.5] * 2, std=[0.25] * 2)
    with pytest.raises(UsageError, match="three numbers each"):
        pt.score("photos", teacher=Counting(), preprocessing=odd, out=tmp_path / "m")
    with pytest.raises(UsageError, match="no field 'size'"):
        pt.score("photos", teacher=Counting(), preprocessing=PREPROCESSING.model_copy(update={"size": 1}))
    with pytest.raises(UsageError, match=r"^teacher is missing"):
        pt.score("photos", out=tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_student_teaches_as_the_file_it_was_read_from(at_work, tmp_path):
    path = "run/student.safetensors"
    by_file = pt.score("photos", teacher=path, out=tmp_path / "file")
    by_module = pt.score("photos", teacher=pt.load_student(path), out=tmp_path / "module")
    assert by_file.id == by_module.id
    student, [image] = pt.load_student(path), at_work["index"].images([0])
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    torch.testing.assert_close(student(student.transform(image)[None]), student(pixels[None]))


def test_images_are_found_or_missed_with_what_helps(at_work, tmp_path, monkeypatch):
    index = at_work["index"]
    assert index.images([]) == []
    again = [np.asarray(image) for image in index.images([5, 5, 2])]
    assert np.array_equal(again[0], again[1])
    assert np.array_equal(again[2], np.asarray(index.images([2], data="photos")[0]))
    for wrong in ([-1], [300], [0.5], [True]):
        with pytest.raises(UsageError, match="whole numbers from 0 to 299"):
            index.images(wrong)
    with pytest.raises(MismatchError, match="does not have 1 of 1 samples; the first: train/0/"):
        index.images([0], data="photos", split="test")
    alone = pt.select("manifest", keep=0.5, beton=False, out=tmp_path / "alone")
    (tmp_path / "alone" / "local.json").unlink()
    with pytest.raises(InputError, match="does not know where its images are"):
        pt.Manifest.open(tmp_path / "alone").images([0])
    assert np.array_equal(np.asarray(alone.images([0], data="photos")[0]), np.asarray(index.images([0])[0]))


def test_images_come_from_the_beton_where_the_folder_is_gone(at_work, tmp_path):
    index = pt.index("photos", beton=True, out=tmp_path / "index")
    local = tmp_path / "index" / "local.json"
    local.write_text(local.read_text().replace("photos", "moved-away"))
    [picture] = pt.Manifest.open(tmp_path / "index").images([7])
    assert np.array_equal(np.asarray(picture), np.asarray(index.images([7])[0]))


def test_an_image_that_was_altered_is_not_shown_as_if_it_were_the_one(at_work, tmp_path):
    for name in "ab":
        (tmp_path / "two" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), "red" if name == "a" else "blue").save(tmp_path / "two" / name / "1.png")
    index = pt.index(tmp_path / "two", out=tmp_path / "index")
    Image.new("RGB", (8, 8), "green").save(tmp_path / "two" / "a" / "1.png")
    with pytest.raises(MismatchError, match=r"a/1\.png was altered"):
        index.images([0])
    assert index.images([0], data=tmp_path / "two")[0].getpixel((0, 0)) == (0, 128, 0)


def test_a_table_names_scores_of_several_sets_apart(at_work, tmp_path):
    manifest = pt.score(
        "photos", teacher=at_work["net"], preprocessing=PREPROCESSING, features=True, out=tmp_path / "m"
    )
    assert {"loss", "grand", "moderate"} <= set(manifest.to_pandas().columns)


def test_registering_again_replaces_and_another_name_of_ours_is_refused():
    from prune_toolkit.scoring.score import SCORES

    for factor in (1, 2):

        @pt.register("score", "tried", harder="low", formula=f"{factor} z_0")
        def tried(rows):
            return rows.z_nC[:, 0]

    assert SCORES["tried"].formula == "2 z_0"
    SCORES.forget("tried")
    with pytest.raises(ValueError, match="'loss' is registered already"):
        pt.register("score", "loss", harder="low")(tried)
    with pytest.raises(UsageError, match="unknown kind of method: 'scores'"):
        pt.register("scores", "x", harder="low")


def test_a_method_that_is_not_a_function_is_refused_and_the_text_counts_where_nobody_kept_it():
    from prune_toolkit.api.register import _origin

    with pytest.raises(UsageError, match="a builtin_function_or_method is not a function"):
        pt.register("score", "longest", harder="low")(max)
    made = []
    for text in ("lambda rows: [x + 1 for x in rows]", "lambda rows: [x + 2 for x in rows]") * 2:
        made.append(_origin(eval(text, {"__name__": "__main__"})))
    assert made[0] == made[2] != made[1]
    assert made[0].startswith("__main__ ")


def test_where_others_still_work_the_call_says_so_and_goes_on_later(at_work, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(IncompleteError, match="those of other processes are not"):
        pt.index("photos", out=tmp_path / "index")
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    assert repr(pt.index("photos", out=tmp_path / "index")).startswith("<Manifest index: 300 samples, 10 classes, id ")
    assert repr(pt.verify(tmp_path / "index")).endswith("whole, 1 file(s)>")
    with pytest.raises(UsageError, match="is a URL"):
        pt.index("photos", out="s3://bucket/index")


@pytest.mark.parametrize("name", ["trainer", "manifests"])
@pytest.mark.parametrize(
    "code",
    [
        "import prune_toolkit",
        "import runpy, sys; sys.argv = ['prune', '--help']; runpy.run_module('prune_toolkit', run_name='__main__')",
        "from prune_toolkit.main import train; train()",
    ],
)
def test_a_file_that_hides_a_package_of_ours_is_named(name, code, tmp_path):
    (tmp_path / f"{name}.py").write_text("x = 1\n")
    run = child(code, tmp_path)
    [*_, last] = run.stderr.strip().splitlines()
    assert run.returncode == 1
    assert last == (
        f"ImportError: {tmp_path / name}.py hides the package {name!r} of prune-toolkit: "
        "rename it or run from another folder"
    )
