"""The `cliniqure` command. Exit codes: 0 done, 1 a notebook failed, 2 asked for something impossible, 130 interrupted.

What 1 means to the other commands: `doctor`, something that the chain needs is missing; `predict`, a file was not read;
`compare`, the numbers differ; `grade`, a check failed.
`refresh` exits with 2 when outputs may not be taken.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence

from cliniqure_utils.vocabulary import DISCLAIMER


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the console script.

    Args:
        arguments: Without the program's name. Default: sys.argv.

    Returns:
        The exit code.
    """
    with _patient_output():
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    from cliniqure_utils.course.chain import NotebookFailed
    from cliniqure_utils.project import CannotStart

    try:
        return options.act(options)
    except CannotStart as error:
        print(f"cliniqure: {error}", file=sys.stderr)
        return 2
    except NotebookFailed as error:
        print(f"cliniqure: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # a folder that is not ours, a read-only or a full disk
        said = f"{error.filename or 'a file'} cannot be used ({error.strerror})" if error.strerror else str(error)
        print(f"cliniqure: {said}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cliniqure: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


class _Patient:
    """A stream that nobody may read to its end (`| head -1`, a full disk): what cannot be written is lost, no error."""

    def __init__(self, stream):
        self._stream = stream
        if hasattr(stream, "reconfigure"):  # a file's name may hold what this terminal cannot print
            stream.reconfigure(errors="backslashreplace", line_buffering=True)

    def write(self, text: str) -> int:
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def _try(self, act, *arguments) -> None:
        try:
            act(*arguments)
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # for the rest, and for what Python itself writes at its end
            os.close(nowhere)


@contextlib.contextmanager
def _patient_output() -> Iterator[None]:
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and _Patient(stream) for stream in streams)
    try:
        yield
    finally:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        sys.stdout, sys.stderr = streams


class _OneLine(argparse.ArgumentParser):
    """argparse with errors of one line."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _OneLine(prog="cliniqure", description=f"Chest X-ray to report. {DISCLAIMER}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run the notebooks, one after another", allow_abbrev=False)
    run.add_argument("--profile", type=_given, default="demo", help="smoke, demo, paper or beyond (default: demo)")
    run.add_argument(
        "--run-dir", type=_given, metavar="DIR", help="where everything is written (default: outputs/PROFILE)"
    )
    run.add_argument("--data-dir", type=_given, metavar="DIR", help="images and annotations (default: the profile's)")
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NB.NAME=VALUE",
        help="02_detect.n_epochs=3 or all.seed=7",
    )
    run.add_argument(
        "--from", type=_given, dest="start", metavar="NN", help="first notebook; earlier ones stay as they are"
    )
    run.add_argument("--until", type=_given, metavar="NN", help="last notebook")
    run.add_argument("--force", action="store_true", help="run also what has not changed")
    run.add_argument("--dry-run", action="store_true", help="only say what would run, and why")
    run.set_defaults(act=_run)

    predict = commands.add_parser(
        "predict",
        help="films in, reports out",
        allow_abbrev=False,
        description="Frontal chest films (DICOM, PNG or JPEG) through the models of a run. Exit code 0: every file has "
        f"a report; 1: some file was not read (rejected.csv says why); 2: it could not start. {DISCLAIMER}",
    )
    predict.add_argument("inputs", type=_given, nargs="+", metavar="FILE_OR_DIR", help="films, or folders with films")
    predict.add_argument(
        "--run-dir", type=_given, metavar="DIR", help="a finished run (default: outputs/demo of the project)"
    )
    predict.add_argument("--out", type=_given, metavar="DIR", required=True, help="where the reports go")
    given = predict.add_mutually_exclusive_group()
    given.add_argument("--symptoms", metavar="TEXT", default="", help="told to the language model with every film")
    given.add_argument(
        "--symptoms-csv",
        type=_given,
        metavar="FILE",
        help="columns image_id (file name; with its folder where two are alike), symptoms",
    )
    predict.add_argument("--no-llm", action="store_true", help="facts only: no prose, seconds faster")
    predict.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    predict.add_argument(
        "--n-jobs", type=_jobs, metavar="N", help="films at a time (default: 1, or one per worker of --dask)"
    )
    predict.add_argument(
        "--dask",
        type=_given,
        metavar="ADDRESS",
        help="scheduler of a Dask cluster whose workers read the films; they must see the same files",
    )
    predict.add_argument(
        "--eyes",
        type=_given,
        metavar="xrv:NAME_OR_FILE",
        help="classify with a network that learnt from patients, torchxrayvision's DenseNet: "
        "xrv:densenet121-res224-all (28 MB are downloaded) or xrv:FILE; boxes are still of the run",
    )
    predict.set_defaults(act=_predict)

    compare = commands.add_parser(
        "compare",
        help="do two runs give the same numbers, and what differs?",
        allow_abbrev=False,
        description="Exit code 0: the same numbers; 1: different; 2: they cannot be compared.",
    )
    compare.add_argument("first", type=_given, metavar="RUN_A")
    compare.add_argument("second", type=_given, metavar="RUN_B")
    compare.add_argument(
        "--tolerance",
        type=_share,
        metavar="X",
        help="largest difference that counts as the same, of 1 or of a larger number (default: 0 where platform, "
        "device and versions agree, else 0.05)",
    )
    compare.set_defaults(act=_compare)

    grade = commands.add_parser(
        "grade",
        help="is a run whole and honest? for instructors",
        allow_abbrev=False,
        description="Exit code 0: passed; 1: failed; 2: it cannot be graded. Of several runs: their largest code.",
    )
    grade.add_argument(
        "runs", type=_given, nargs="+", metavar="RUN_DIR", help="of several, such as class/*, a table at the end"
    )
    grade.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="draws the ten films that are worked out again (default: another one each time, which is printed)",
    )
    grade.add_argument(
        "--reference", type=_given, metavar="FILE", help="reference ranges (default: data/reference/PROFILE.json)"
    )
    grade.add_argument("--json", type=_given, metavar="FILE", help="write the result as JSON")
    grade.add_argument("--junit", type=_given, metavar="FILE", help="write the result as JUnit XML")
    grade.add_argument("--require-exercises", action="store_true", help="an unsolved or wrong exercise fails")
    grade.add_argument(
        "--checks",
        type=_given,
        metavar="DIR",
        help="your own checks: functions check_...(run) in files check_*.py of a folder",
    )
    grade.add_argument(
        "--make-reference",
        action="store_true",
        help="write the reference ranges from several runs with different seeds, and grade nothing",
    )
    grade.set_defaults(act=_grade)

    handout = commands.add_parser(
        "handout", help="the students' notebooks: no solutions, no outputs", allow_abbrev=False
    )
    handout.add_argument(
        "--student", type=_given, metavar="DIR", required=True, help="a new folder, to stand for notebooks/"
    )
    handout.set_defaults(act=_handout)

    pretrain = commands.add_parser(
        "pretrain",
        help="make data/pretrained anew",
        allow_abbrev=False,
        description="Weights of our own from simulated patients that are in no cohort. A part that was stopped goes on "
        "where it was.",
    )
    pretrain.add_argument(
        "--part",
        metavar="NAME",
        help="films, eyes or report (default: all, in this order); or card: enter the scores of outputs/demo",
    )
    pretrain.add_argument(
        "--hours", type=float, metavar="H", help="how long all parts together may take on two cores, about (default: 1)"
    )
    pretrain.add_argument("--n-jobs", type=_jobs, metavar="N", help="worker processes (default: one per core)")
    pretrain.set_defaults(act=_pretrain)

    doctor = commands.add_parser("doctor", help="is everything here? text for a bug report")
    doctor.set_defaults(act=_doctor)

    refresh = commands.add_parser("refresh", help="put a demo run's outputs into the committed notebooks")
    refresh.add_argument(
        "--run-dir",
        type=_given,
        metavar="DIR",
        help="a finished run (default: outputs/demo, brought up to date)",
    )
    refresh.set_defaults(act=_refresh)
    return parser


def _run(options: argparse.Namespace) -> int:
    from cliniqure_utils.course.chain import run_chain
    from cliniqure_utils.project import CannotStart

    overrides = {}
    for text in options.set:
        key, equals, value = text.partition("=")
        if not equals:
            raise CannotStart(f"expected --set NOTEBOOK.NAME=VALUE, found {text}")
        if key in overrides:
            raise CannotStart(f"--set {key} is there twice")
        overrides[key.strip()] = value
    run_chain(
        profile=options.profile,
        run_dir=options.run_dir,
        data_dir=options.data_dir,
        overrides=overrides,
        start=options.start,
        until=options.until,
        force=options.force,
        dry_run=options.dry_run,
    )
    return 0


def _handout(options: argparse.Namespace) -> int:
    from cliniqure_utils.course.handout import make_handout

    for line in make_handout(options.student):
        print(line)
    return 0


def _given(text: str) -> str:
    """An empty text is a shell variable that was never set; taken as no option at all, it would start a whole run."""
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a name, found nothing")
    return text


def _jobs(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, found {text}")
    return int(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, found {text}")
    return value


def _compare(options: argparse.Namespace) -> int:
    from cliniqure_utils.course.compare import compare_runs, lines

    comparison = compare_runs(options.first, options.second, options.tolerance)
    print("\n".join(lines(comparison, options.first, options.second)))
    return 0 if comparison.same else 1


def _grade(options: argparse.Namespace) -> int:
    from cliniqure_utils.course import grade
    from cliniqure_utils.runs import write_json, write_text

    if options.make_reference:
        runs = [grade.open_run(folder) for folder in options.runs]
        path = grade.write_reference(runs, options.reference)
        print(f"{len(runs)} runs: {path}")
        return 0
    asked = {
        "reference": options.reference, "require_exercises": options.require_exercises, "checks_dir": options.checks,
        "seed": options.seed, "echo": lambda line: print(line, flush=True),
    }  # fmt: skip
    if len(options.runs) == 1:
        result = grade.grade_run(grade.open_run(options.runs[0]), **asked)
        print("\n".join(grade.as_table(result)))
        code, values, junit = 0 if result.passed else 1, grade.as_json(result), grade.as_junit(result)
    else:
        results = grade.grade_class(options.runs, **asked)
        for result in results:
            said = grade.as_table(result.grade) if result.grade else [f"not graded: {result.problem}"]
            print("\n".join(["", f"{result.folder}:", *said]))
        print("\n".join(["", *grade.as_class_table(results)]))
        code = max(2 if r.grade is None else 0 if r.grade.passed else 1 for r in results)
        values, junit = grade.class_as_json(results), grade.class_as_junit(results)
    if options.json:
        write_json(options.json, values)
    if options.junit:
        write_text(options.junit, junit)
    return code


def _predict(options: argparse.Namespace) -> int:
    from cliniqure_utils.predict.command import predict
    from cliniqure_utils.process import thread_settings
    from cliniqure_utils.project import REPOSITORY

    os.environ.update(thread_settings(os.environ))  # before torch is loaded

    done, rejected = predict(
        options.inputs,
        options.run_dir or REPOSITORY / "outputs" / "demo",
        options.out,
        symptoms=options.symptoms,
        symptoms_csv=options.symptoms_csv,
        use_llm=not options.no_llm,
        device=options.device,
        n_jobs=options.n_jobs,
        dask=options.dask,
        eyes=options.eyes,
    )
    return 1 if rejected or not done else 0


def _pretrain(options: argparse.Namespace) -> int:
    from cliniqure_utils.process import thread_settings

    os.environ.update(thread_settings(os.environ))  # before torch is loaded
    from cliniqure_utils.pretraining.command import HOURS, pretrain

    pretrain(options.part, HOURS if options.hours is None else options.hours, options.n_jobs or -1)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from cliniqure_utils.course.doctor import examine

    lines, healthy = examine()
    print("\n".join(lines))
    return 0 if healthy else 1


def _refresh(options: argparse.Namespace) -> int:
    from cliniqure_utils.course.chain import run_chain
    from cliniqure_utils.course.refresh import refresh
    from cliniqure_utils.project import REPOSITORY

    run_dir = options.run_dir
    if run_dir is None:
        run_dir = REPOSITORY / "outputs" / "demo"
        run_chain(profile="demo", run_dir=run_dir)
    for line in refresh(run_dir):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
