"""The image's parts that can be looked at without building it; `make image-test` builds and runs it."""

import re
import shlex
import subprocess
import tomllib

from conftest import REPOSITORY
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

DOCKERFILE = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
LOCKS = REPOSITORY / "deploy/requirements"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


def pinned(name: str) -> dict[str, list[str]]:
    """The versions that a lock has of each package; some have one for each Python."""
    found: dict[str, list[str]] = {}
    for package, version in re.findall(r"^([\w.-]+)==(\S+)", (LOCKS / name).read_text(encoding="utf-8"), re.MULTILINE):
        found.setdefault(package, []).append(version)
    return found


def wanted(*extras: str) -> list[Requirement]:
    project = PROJECT["project"]
    lines = project["dependencies"] + [line for extra in extras for line in project["optional-dependencies"][extra]]
    return [Requirement(line) for line in lines]


def test_what_serving_installs_is_within_the_ranges_of_the_project():
    locked = pinned("serving.txt")
    for requirement in wanted("kafka", "confluent", "store"):
        versions = locked[canonicalize_name(requirement.name)]
        assert all(requirement.specifier.contains(version) for version in versions), requirement


def test_what_training_installs_is_within_the_ranges_and_agrees_with_serving():
    training, serving = pinned("training.txt") | pinned("torch.txt"), pinned("serving.txt")
    for requirement in wanted("train"):
        versions = training[canonicalize_name(requirement.name)]
        assert all(requirement.specifier.contains(version) for version in versions), requirement
    assert {name: training[name] for name in serving.keys() & training.keys()}.items() <= serving.items()


def test_serving_installs_nothing_of_training():
    assert not {"torch", "scikit-learn", "scipy", "networkx", "matplotlib", "dgl"} & set(pinned("serving.txt"))


def test_every_package_has_hashes():
    for name in ("build.txt", "serving.txt", "training.txt"):
        blocks = re.split(r"^(?=[a-z])", (LOCKS / name).read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
        assert blocks
        assert all("--hash=sha256:" in block for block in blocks), name


def test_whatever_the_dockerfile_copies_is_there_and_not_ignored():
    let_through = re.findall(r"^!(\S+)", (REPOSITORY / ".dockerignore").read_text(), re.MULTILINE)
    copied = [shlex.split(line)[:-1] for line in re.findall(r"^COPY (?!--from)(.+)", DOCKERFILE, re.MULTILINE)]
    assert len(copied) == 5
    for source in (path.rstrip("/") for paths in copied for path in paths):
        assert (REPOSITORY / source).exists()
        assert source in let_through


def packages() -> set[str]:
    """The packages that are installed, with all that is below them."""
    found = PROJECT["tool"]["setuptools"]["packages"]["find"]
    assert found["namespaces"] is False
    return {pattern.removesuffix("*") for pattern in found["include"]}


def test_every_package_of_ours_is_installed():
    folders = {path.parent for name in packages() for path in REPOSITORY.glob(f"{name}/**/*.py")}
    assert all((folder / "__init__.py").exists() for folder in folders)  # or it would be passed over


def test_the_packages_of_the_image_are_those_of_the_project():
    assert packages() == set(re.findall(r"^COPY (\w+)/ \w+/$", DOCKERFILE, re.MULTILINE))
    assert f"ARG VERSION={PROJECT['project']['version']}\n" in DOCKERFILE


def test_the_image_sets_no_knob_and_installs_by_hash_only():
    assert not re.findall(r"^ENV.*GRAPHSIEVE_", DOCKERFILE, re.MULTILINE)
    for command in re.findall(r"pip install.*?(?=&&|\n\n|\nRUN|\nCOPY|\n#)", DOCKERFILE, re.DOTALL):
        assert "--require-hashes" in command or "--no-index" in command or "${TORCH_INDEX}" in command, command


def test_the_scripts_are_bash():
    for script in ("deploy/image-test", "deploy/requirements/lock"):
        subprocess.run(["bash", "-n", REPOSITORY / script], check=True)
