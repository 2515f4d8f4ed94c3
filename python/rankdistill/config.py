"""The settings of training and of a run. No torch here: `--help` reads only this."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

GENERATED, GENERATED_WEIGHT = "generated", 0.01  # the generated data set, and the weight of rrd that suits it


@dataclass
class TrainingConfig:
    """How a model is trained.

    Args:
        epochs: passes over the train interactions, > 0. A run may be resumed with more; that its last epoch was evaluated
            stays in its history, where an uninterrupted one has no evaluation.
        batch_size: interactions per step, > 0; for multvae and sasrec users, for item_autoencoder items, with all of
            their interactions.
        optimizer: adam is fused Adam on every row; lazy_adam is Adam on the rows that a batch touches, without decay;
            lazy_sgd is gradient descent on those rows, with the decay of all others caught up exactly. What is no
            table of the model (a method's experts) gets the dense Adam or SGD.
        learning_rate: > 0.
        weight_decay: added to the gradient, on every row, >= 0; 0 for lazy_adam.
        n_negatives: negative items per positive one, drawn anew each epoch.
        evaluate_every: epochs between evaluations on the validation part; the first and the last epoch are
            always evaluated. 0 for the last alone.
        evaluate_test: also evaluate the test part each time (for learning curves; never used to choose).
        patience: stop after this many evaluations without a better validation metric; 0 to train to the end.
        metric: what validation compares, such as recall@50.
        keep_best: end with the weights of the best validation, not the last ones.
        seed: of initial values, shuffles and draws.
    """

    epochs: int = 100
    batch_size: int = 1024
    optimizer: Literal["adam", "lazy_adam", "lazy_sgd"] = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-3
    n_negatives: int = 1
    evaluate_every: int = 10
    evaluate_test: bool = False
    patience: int = 0
    metric: str = "recall@50"
    keep_best: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "n_negatives"):
            _expect(getattr(self, name) >= 1, f"training.{name} of 1 or more", getattr(self, name))
        for name in ("evaluate_every", "patience", "weight_decay"):
            _expect(getattr(self, name) >= 0, f"training.{name} of 0 or more", getattr(self, name))
        _expect(self.learning_rate > 0, "training.learning_rate above 0", self.learning_rate)
        known = ("adam", "lazy_adam", "lazy_sgd")
        _expect(self.optimizer in known, f"training.optimizer of {', '.join(known)}", self.optimizer)
        if self.optimizer == "lazy_adam":
            expected = "training.weight_decay of 0 for lazy_adam, which has none"
            _expect(self.weight_decay == 0, expected, self.weight_decay)
        name, _, cutoff = self.metric.partition("@")
        whole = cutoff.isascii() and cutoff.isdecimal() and int(cutoff) > 0
        _expect(bool(name) and whole, "training.metric as name@cutoff", self.metric)


def _expect(condition: bool, expected: str, got: object) -> None:
    if not condition:
        raise ValueError(f"config: expected {expected}; got {got}")


def _expect_weight(name: str, weight: float | None) -> None:
    _expect(weight is None or 0 <= weight < float("inf"), f"{name} of 0 or more", weight)


@dataclass
class DataConfig:
    """Which interactions.

    Args:
        source: "generated", a public data set's name, a folder with train/valid/test files, or one file to split.
        train: a file of train interactions, instead of `source`.
        valid: a file of validation interactions, beside `train`.
        test: a file of test interactions, beside `train`.
        format: of the files: csv, tsv, parquet, u.data, lightgcn, inter, …; guessed from the names by default.
        split: how one file is split: random, leave_one_out, leave_last_out, temporal, temporal_global, or none, where
            everything is train: for a final model, when nothing is left to choose.
        ratios: train, valid and test shares of a random or temporal split.
        seed: of the split, and of "generated".
        options: more of the reader's settings: user_column, item_column, rating_column and timestamp_column (names;
            false leaves ratings or timestamps out), min_rating, and of csv and tsv separator (such as ";") and columns (the
            names, where a file has no header: [user, item]); or of the generator's, such as {n_items: 8000}.
    """

    source: str = GENERATED
    train: str | None = None
    valid: str | None = None
    test: str | None = None
    format: str | None = None
    split: str = "random"
    ratios: list[float] = field(default_factory=lambda: [0.8, 0.1, 0.1])
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = {part: getattr(self, part) for part in ("valid", "test") if getattr(self, part) is not None}
        expected = "data.train beside data.valid and data.test, which replace data.source"
        _expect(self.train is not None or not given, expected, given)
        expected = "either data.source or data.train"
        _expect(self.train is None or self.source == GENERATED, expected, f"{self.source} and {self.train}")


@dataclass
class ModelConfig:
    """A model that is trained.

    Args:
        name: mf is matrix factorisation trained by BPR; multi_head is the model of concf, vectors under several heads;
            cml, neumf, lightgcn, multvae, item_autoencoder and sasrec are metric learning, a network beside a product,
            graph convolution, autoencoders of users' and of items' interactions, and a transformer of sequences.
        width: numbers per user and per item.
        sharded: divide the tables by rows among the processes of torchrun instead of a copy on each: mf alone.
        options: more of the model's settings, such as {n_layers: 2} or {dropout: 0.3}.
    """

    name: Literal["mf", "multi_head", "cml", "neumf", "lightgcn", "multvae", "item_autoencoder", "sasrec"] = (
        "mf"
    )
    width: int = 20
    sharded: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _expect(self.name == "mf" or not self.sharded, "name of mf for a sharded model", self.name)


def _expect_whole(command: str, **models: ModelConfig | None) -> None:
    """Models that a command makes whole."""
    for name, model in models.items():
        sharded = model is not None and model.sharded
        _expect(not sharded, f"{name}.sharded of false for {command}", sharded)


@dataclass
class TrajectoryConfig:
    """What is kept of a teacher's training, for hetcomp: its rankings at several moments.

    Args:
        every: epochs between two rankings; 0 keeps none.
        folder: where they go; the folder trajectory beside the checkpoint by default.
        k: items per user, hetcomp's n_listed or more.
    """

    every: int = 0
    folder: str | None = None
    k: int = 100

    def __post_init__(self) -> None:
        _expect(self.every >= 0, "trajectory.every of 0 or more", self.every)
        _expect(self.k >= 1, "trajectory.k of 1 or more", self.k)


@dataclass
class MethodConfig:
    """A distillation method.

    Args:
        name: rrd is relaxed ranking distillation; `rankdistill methods` describes all.
        weight: of its loss beside the student's own; the method's published weight by default.
        list_length: items per user in the teacher's rankings, where they are made here; of several methods the longest. Lists
            from a file are used as they are.
        options: more of the method's settings, such as {temperature: 5.0, n_interesting: 50}.
    """

    name: Literal[
        "rrd", "ir-rrd", "rd", "cd", "dcd", "listwise", "unkd",
        "hint", "de", "phr", "ftd", "htd", "rkd", "freqd", "pckd", "bd", "concf", "rce_kd", "hetcomp",
    ] = "rrd"  # fmt: skip
    weight: float | None = None
    list_length: int = 500
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _expect_weight("method.weight", self.weight)


@dataclass
class RunConfig:
    """`rankdistill run`: a teacher, its rankings, a student without and with distillation, and their comparison.

    Args:
        data: the interactions.
        teacher: the large model.
        student: the small one.
        method: how the student learns from the teacher's rankings. On the generated data set rrd has weight 0.01 by
            default, which suits it.
        also: further methods beside it, each with its weight.
        base_weight: of the distilled student's own loss; by default 1, or 0 with a method that is published without
            one (hetcomp, concf).
        training: how the students are trained.
        teacher_training: how the teacher is trained; as the students by default.
        trajectory: what is kept of the teacher's training; for hetcomp its four quarters by default.
        device: cpu or cuda, where models train and rank.
        out: the folder for models, rankings, logs and results; an interrupted run goes on there.
        progress: show progress bars on a terminal.
    """

    data: DataConfig = field(default_factory=DataConfig)
    teacher: ModelConfig = field(default_factory=lambda: ModelConfig(width=100))
    student: ModelConfig = field(default_factory=lambda: ModelConfig(width=10))
    method: MethodConfig = field(default_factory=MethodConfig)
    also: list[MethodConfig] = field(default_factory=list)
    base_weight: float | None = None
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(epochs=60))
    teacher_training: TrainingConfig | None = None
    trajectory: TrajectoryConfig = field(default_factory=TrajectoryConfig)
    device: Literal["cpu", "cuda"] = "cpu"
    out: str = "runs/quickstart"
    progress: bool = True

    def __post_init__(self) -> None:
        _expect_weight("base_weight", self.base_weight)
        _expect_whole("run", teacher=self.teacher, student=self.student)
        generated = self.data.source == GENERATED and self.data.train is None
        if generated and self.method.name == "rrd" and self.method.weight is None:
            self.method = replace(self.method, weight=GENERATED_WEIGHT)


@dataclass
class TrainConfig:
    """`rankdistill train`: one model without distillation; under torchrun on several processes.

    Args:
        data: the interactions.
        model: the model.
        training: how it is trained.
        trajectory: what is kept of its training, for hetcomp.
        out: the folder for the model, the checkpoint and the log.
        seeds: 0..4, or a list: trains once under each (instead of training.seed), in out/seed-0 and so on, and reports
            means, deviations and tests. What is finished is not run again; data and teacher stay the same.
        compare: with seeds, the folder of another run (with or without seeds) of the same data, such as that of the
            undistilled student.
        device: cpu or cuda; under torchrun each process takes the GPU of its LOCAL_RANK.
        timeout: seconds that a process under torchrun waits for another one before it gives up, > 0.
        progress: show progress bars on a terminal.
    """

    out: str
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    trajectory: TrajectoryConfig = field(default_factory=TrajectoryConfig)
    seeds: str | list[int] | None = None
    compare: str | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    timeout: float = 600.0
    progress: bool = True

    def __post_init__(self) -> None:
        _expect(self.timeout > 0, "timeout above 0", self.timeout)
        if self.trajectory.every:  # whole rankings, made by one process
            _expect_whole("train with a trajectory", model=self.model)


@dataclass
class ExtractConfig:
    """`rankdistill extract`: a teacher's rankings, train items left out; under torchrun on several processes.

    An interrupted extraction goes on where it was when the same command is given again.

    Args:
        out: the folder of shards to write, or one file where the name ends with .safetensors.
        data: the interactions whose train items are left out.
        model: a model's folder or file, as `train` wrote it, or anything that `distill` takes as a teacher; where
            scores come from a function or have user biases, the rankings are made in memory, for one file.
        user_vectors: a table of user vectors (.npy, .npz, .pt or .safetensors), instead of `model`; "file#name" where
            the file holds several. Only .npz files are read into memory whole. Rows are in the order of the data set's
            ids, ascending, strings by code point (u10 before u2); rows in any other order come with their ids, as `model`.
        item_vectors: a table of item vectors, beside `user_vectors`.
        item_bias: a column of numbers in such a file, added to the items' scores.
        k: items per user, all of a smaller catalogue.
        memory_limit: of every process, beside the tables, such as 1GiB.
        shard_size: users per shard, a multiple of 1024; shards of some 32 MiB by default.
        divide: what processes divide among themselves, users or items.
        device: cpu or cuda, where vectors are ranked (a function of scores stays where it is); under torchrun each process takes the GPU of its LOCAL_RANK.
        resume: go on with what is in `out`; false begins anew.
        progress: show progress bars on a terminal, lines of the log elsewhere.
    """

    out: str
    data: DataConfig = field(default_factory=DataConfig)
    model: str | None = None
    user_vectors: str | None = None
    item_vectors: str | None = None
    item_bias: str | None = None
    k: int = 500
    memory_limit: str = "1GiB"
    shard_size: int | None = None
    divide: Literal["users", "items"] = "users"
    device: Literal["cpu", "cuda"] = "cpu"
    resume: bool = True
    progress: bool = True


@dataclass
class DistillConfig:
    """`rankdistill distill`: a student that learns from a teacher, or its rankings; under torchrun on several processes.

    Args:
        out: the folder for the student, the checkpoint and the log.
        rankings: the file or folder, as `extract` wrote it; or a table of lists (csv, tsv, parquet: user, item, score; or
            JSON), of any recommender; the teacher's, in memory, where none is named and the method reads some.
        teacher: a model's folder or file; factors, as `export` writes them or as users.npy,items.npy[,item_bias.npy];
            or module:name, an object or a function of users that gives scores. Some methods need its vectors; bd trains a
            copy of a model along.
        data: the interactions.
        student: the small model.
        method: how it learns from the rankings.
        also: further methods beside it, each with its weight.
        base_weight: of the student's own loss; by default 1, or 0 with a method that is published without one (hetcomp,
            concf).
        new_teacher: a new model for bd to train along, instead of `teacher`.
        trajectories: folders of several teachers' trajectories, as `train` kept them, for hetcomp.
        training: how it is trained.
        seeds: 0..4, or a list: trains once under each (instead of training.seed), in out/seed-0 and so on, and reports
            means, deviations and tests. What is finished is not run again; data and teacher stay the same.
        compare: with seeds, the folder of another run (with or without seeds) of the same data, such as that of the
            undistilled student.
        device: cpu or cuda; under torchrun each process takes the GPU of its LOCAL_RANK.
        timeout: seconds that a process under torchrun waits for another one before it gives up, > 0.
        progress: show progress bars on a terminal.
    """

    out: str
    rankings: str | None = None
    teacher: str | None = None
    data: DataConfig = field(default_factory=DataConfig)
    student: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    also: list[MethodConfig] = field(default_factory=list)
    base_weight: float | None = None
    new_teacher: ModelConfig | None = None
    trajectories: list[str] = field(default_factory=list)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    seeds: str | list[int] | None = None
    compare: str | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    timeout: float = 600.0
    progress: bool = True

    def __post_init__(self) -> None:
        _expect(self.timeout > 0, "timeout above 0", self.timeout)
        _expect_weight("base_weight", self.base_weight)
        _expect_whole("distill", new_teacher=self.new_teacher)


@dataclass
class ExportConfig:
    """`rankdistill export`: a trained model as a file for others: factors, or a program that ranks.

    Factors are named arrays (users, items, item_bias, user_bias, user_ids, item_ids); a program of torch.export gives the
    best k items of a batch of users by their row.

    Args:
        model: a model's folder or file, a checkpoint (its best weights), or anything that `distill` takes as a teacher.
        out: a .npz or .safetensors file of factors, or a .pt2 program.
        data: the interactions, whose ids the rows get where the model does not know them; none by default.
        k: of a program, items per user.
        exclude: whether the program takes items that users must not get: program(users, indptr, indices).
    """

    model: str
    out: str
    data: DataConfig | None = None
    k: int = 100
    exclude: bool = False


@dataclass
class BenchServingConfig:
    """`rankdistill bench-serving`: latency, throughput and memory of exact top-k lists, student beside teacher.

    Args:
        student: a model's folder or file, or a file of factors.
        teacher: another one, measured in turn with it; none by default.
        data: the interactions whose train items are left out of the lists; none by default.
        k: items per user.
        batch_sizes: users per query.
        queries: timed queries of every model and batch size, 100 or more.
        threads: of torch and the kernels; as they are by default. The report says how many they were.
        device: cpu or cuda.
        prepared: whether the items are ordered and packed once, before the queries.
        warmup: seconds of queries before the timed ones.
        seed: of the users that ask.
        out: the folder for serving.md and serving.json.
    """

    student: str
    teacher: str | None = None
    data: DataConfig | None = None
    k: int = 100
    batch_sizes: list[int] = field(default_factory=lambda: [1, 256])
    queries: int = 300
    threads: int | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    prepared: bool = True
    warmup: float = 1.0
    seed: int = 0
    out: str = "runs/serving"

    def __post_init__(self) -> None:
        _expect(self.threads is None or self.threads >= 1, "threads of 1 or more", self.threads)


@dataclass
class TuneConfig:
    """`rankdistill tune`: the weight and settings of a method that are best on the validation part.

    An interrupted search goes on where it was when the same command is given again. Nothing is measured on the test part, whose
    items validation leaves out of its lists as always.

    Args:
        out: the folder of the search, with trials.md, trials.json and best.yaml, settings for `distill --config`.
        rankings: as for `distill`.
        teacher: as for `distill`.
        data: the interactions; they need a validation part.
        student: the small model.
        method: how it learns; its weight and options are where the search begins from, or what it leaves alone.
        also: further methods beside it, as they are.
        base_weight: as for `distill`.
        new_teacher: as for `distill`.
        trajectories: as for `distill`.
        training: how it is trained; `metric` is what is sought.
        search: ranges by name: weight, options of the method, training.X or student.width. [low, high]; {low: 0.01,
            high: 10, log: true}; {choices: [1, 5]}; null to leave one alone. By default the weight, and the temperature of
            a method that has one: a hundredth to a hundred times, a tenth to ten times what they are.
        device: cpu or cuda.
        trials: how many, those of an earlier call included.
        seed: of the search.
        storage: a database for Optuna, such as sqlite:///path.db, or a file that ends with .journal; study.db in `out` by
            default. Searches with the same settings in several folders divide the trials of one storage.
        progress: show progress bars on a terminal.
    """

    out: str
    rankings: str | None = None
    teacher: str | None = None
    data: DataConfig = field(default_factory=DataConfig)
    student: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    also: list[MethodConfig] = field(default_factory=list)
    base_weight: float | None = None
    new_teacher: ModelConfig | None = None
    trajectories: list[str] = field(default_factory=list)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    search: dict[str, Any] = field(default_factory=dict)
    device: Literal["cpu", "cuda"] = "cpu"
    trials: int = 30
    seed: int = 0
    storage: str | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        _expect_weight("base_weight", self.base_weight)
        _expect_whole("tune", student=self.student, new_teacher=self.new_teacher)


@dataclass
class ReproduceConfig:
    """`rankdistill reproduce`: a published study run again, our numbers beside the published ones.

    What is finished is not run again: an interrupted study goes on where it was when the same command is given again. Given
    twice at a time, the two processes divide the models.

    Args:
        study: topology is FTD and HTD on CiteULike, by learning curves; ranking is RRD, DE and IR-RRD on CiteULike, among
            sampled items; heterogeneous is HetComp of six kinds of teachers on CiteULike; methods is every method on
            CiteULike, ML-1M or data of your own; scaling is what the steps of a training cost on Gowalla and on generated catalogues.
        out: the folder for models and the report (report.html, report.md); runs/STUDY by default.
        data: the folder of data sets, or one with this study's train, valid and test files; the variable RANKDISTILL_DATA
            by default, else a download where there is one.
        epochs: fewer than published, for a trial.
        seeds: 0..4, or a list; the study's own by default.
        widths: of students; the study's own by default.
        methods: some of the study's; all by default. topology also takes any other of the command line.
        datasets: of methods: citeulike, ml-1m (both by default), or interactions of your own, what `--data.source` of train
            takes: a folder with train, valid and test files, or one file to split.
        sizes: of the generated catalogues of scaling.
        threads: of torch and the kernels; as they are by default.
        device: cpu or cuda, where models train; scaling is of the processor.
        progress: show progress bars on a terminal, lines of the log elsewhere.
    """

    study: Literal["topology", "ranking", "heterogeneous", "methods", "scaling"]
    out: str | None = None
    data: str | None = None
    epochs: int | None = None
    seeds: str | list[int] | None = None
    widths: list[int] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    datasets: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=lambda: [10_000, 100_000, 1_000_000])
    threads: int | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    progress: bool = True

    def __post_init__(self) -> None:
        _expect(self.device == "cpu" or self.study != "scaling", "device=cpu for scaling", self.device)
        _expect(
            len(self.widths) <= 1 or self.study == "topology", f"one of widths for {self.study}", self.widths
        )
        _expect(not self.datasets or self.study == "methods", f"no datasets for {self.study}", self.datasets)
        for name in ("epochs", "threads"):
            value = getattr(self, name)
            _expect(value is None or value >= 1, f"{name} of 1 or more", value)
        _expect(min(self.widths, default=1) >= 1, "widths of 1 or more", self.widths)
        _expect(min(self.sizes, default=100) >= 100, "sizes of 100 or more", self.sizes)

    def chosen_methods(
        self, known: tuple[str, ...], default: tuple[str, ...] | None = None
    ) -> tuple[str, ...]:
        """Those named, in the study's order; all of them by default, or some."""
        for name in self.methods:
            _expect(name in known, f"methods of {', '.join(known)} for {self.study}", name)
        return tuple(name for name in known if name in (self.methods or default or known))

    def chosen_widths(self, known: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(self.widths) or known

    def chosen_width(self, known: int) -> int:
        """Of a study with students of one width."""
        return self.chosen_widths((known,))[0]


@dataclass
class MethodsConfig:
    """`rankdistill methods`: the methods of distillation, with their sources, published weights and settings.

    Args:
        pages: a folder to write a page of each into instead, or none.
        bibtex: print the papers that they come from instead, as BibTeX.
    """

    pages: str | None = None
    bibtex: bool = False


@dataclass
class DoctorConfig:
    """`rankdistill doctor`: what serves which op on this machine, and why; for a bug report."""


@dataclass
class EvaluateConfig:
    """`rankdistill evaluate`: a model's metrics against the full catalogue.

    Args:
        model: a model's folder or file, or anything that `distill` takes as a teacher.
        data: the interactions.
        part: valid or test.
        cutoffs: positions.
        device: cpu or cuda, where a model or its vectors go; a function of scores stays where it is.
        out: a JSON file to write besides, or none.
    """

    model: str
    data: DataConfig = field(default_factory=DataConfig)
    part: Literal["valid", "test"] = "test"
    cutoffs: list[int] = field(default_factory=lambda: [10, 20, 50])
    device: Literal["cpu", "cuda"] = "cpu"
    out: str | None = None


@dataclass
class RecommendConfig:
    """`rankdistill recommend`: the best items that users do not have.

    Args:
        model: a model's folder or file, or anything that `distill` takes as a teacher.
        data: the interactions.
        users: external user ids, numbers or names, a list or one; all users by default. In a list an id such as 007 is a name
            in quotes: '["007", "b"]'.
        k: items per user.
        exclude: all leaves out every item that the user has in `data`; train those of the train part alone, so that
            held-out items may be found, as in lists that a student is to learn from.
        out: a csv file to write (user, position, item, score); printed by default.
    """

    model: str
    data: DataConfig = field(default_factory=DataConfig)
    users: list[str | int] = field(default_factory=list)
    k: int = 10
    exclude: Literal["all", "train"] = "all"
    out: str | None = None
