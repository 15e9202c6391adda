"""Every command that writes something, in words that run in the folder of the lab; and those that write nothing."""

from campaign.lab import Command

TEACHER = ("--teacher", "teachers:linear", "--image-size", "8", "--threads", "1", "--loader", "torch")
STUDENT = ("--recipe", "demo", "--student", "resnet8", "--loader", "torch", "--device", "cpu")


def _command(name: str, words: str, *more: str, **facts: object) -> Command:
    return Command(name, (*words.split(), *more), **facts)  # type: ignore[arg-type]


WRITING = (
    _command("index", "index photos --thumbnails -o OUT", shares=True),
    _command("index --beton", "index photos --beton -o OUT"),
    _command("index of 3 parts", "index many --beton -o OUT", shares=True),
    _command("score", "score index -o OUT", *TEACHER, shares=True),
    _command("score --data", "score --data photos -o OUT", *TEACHER),
    _command("score --views 2", "score many-index --views 2 -o OUT", *TEACHER, shares=True),
    _command("score --features", "score index --features -o OUT", *TEACHER),
    _command("score --dynamics", "score manifest --dynamics recorded -o OUT"),
    _command("import scores", "import scores.csv manifest --key file --score hard --harder high -o OUT"),
    _command("import scores --list", "import scores.csv manifest --key file --score hard --harder high --list OUT.txt "
             "-o OUT"),
    _command("import --indices", "import coreset.npy manifest --indices --order keys -o OUT"),
    _command("import --logits", "import logits.npy index --logits --order keys --teacher-name far "
             "--image-size 8 -o OUT"),
    _command("merge", "merge low high -o OUT"),
    _command("merge of 3 parts", "merge many-low many-high -o OUT"),
    _command("merge --average", "merge manifest manifest-2 --average probabilities -o OUT"),
    _command("split --rest", "split manifest --classes cat,dog -o OUT --rest OUT-rest"),
    _command("select", "select manifest --keep 0.5 -o OUT"),
    _command("select of 3 parts", "select many-manifest --keep 0.5 --labels raw -o OUT"),
    _command("label", "label many-selection --views 2 -o OUT", *TEACHER, shares=True),
    _command("cut", "cut selection --data photos -o OUT"),
    _command("card", "card OUT", changes="manifest", makes="manifest"),
    _command("export --indices", "export selection --indices OUT.npy", once=True, makes="file"),
    _command("export --filelist", "export selection --filelist OUT.txt", once=True, makes="file"),
    _command("export --imagefolder", "export selection --imagefolder OUT", once=True, makes="folder"),
    _command("export --imagefolder --copy", "export selection --imagefolder OUT --copy", once=True, makes="folder"),
    _command("export-model torchscript", "export-model recorded --to torchscript -o OUT.pt", once=True, makes="file"),
    _command("push", "push manifest OUT", tolerates=True, makes="manifest"),
    _command("pull", "pull pushed OUT", makes="manifest"),
    _command("suspects --out", "suspects manifest --out OUT.csv", makes="file"),
    _command("verify --list", "verify manifest --data val --allow-mismatch 1 --list OUT.csv", makes="file"),
    _command("eval", "eval recorded --data val --loader torch --device cpu --out OUT.csv --per-class OUT-classes.csv "
             "--confusion OUT-confusion.csv", once=True, makes="file"),
    _command("train-student", "--manifest selection --epochs 2 --val val --out OUT", *STUDENT, program="trainer",
             makes="run"),
    _command("train-student --record-dynamics", "--manifest index --loss ce --epochs 2 --record-dynamics --out OUT",
             *STUDENT, program="trainer", makes="run"),
    _command("sweep", "sweep manifest --val val --keep 0.5 --select medium --seeds 1 --epochs 1 --student resnet8 "
             "--jobs 1 -o OUT --train", "--loader torch --device cpu", makes="sweep", part=5),
)  # fmt: skip

NOT_WRITING = {"show": "prints", "diff": "prints", "list": "prints"}
